"""The listening page: a static folder that shows and plays a run of `nldiff evaluate` in any browser.

May import `errors`, `version`, `sound`, `metrics` and `figures`. It reads the run's folder only, and knows
nothing of models, methods and of how experiments run.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile as sf
import yaml

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.figures import Look, looks_of, plot_curve_grid, plot_spectrogram_row, run_folder
from nldiff.figures.plots import save_figure
from nldiff.metrics.loudness import loudness, normalise_loudness
from nldiff.report.pages import check_pages, render, text_of
from nldiff.version import __version__
from nldiff.writing import replace_folder, scratch_folder

_TARGET = "target"
_MARK = '<meta name="generator" content="nldiff'
_FIGURES = {"boxes": "Scores of all cells", "violins": "Scores at each level", "levels": "Mean scores"}
# Smaller differences of loudness are inaudible and get no note.
_TOLERANCE_LU = 0.1
_PICTURE_DPI = 100


@dataclass(frozen=True)
class Player:
    """One method of one example: its audio files and notes, one for each setting."""

    name: str
    sources: list[str | None]
    notes: list[str]


@dataclass(frozen=True)
class Score:
    """One metric of one example: its label and, for each player, one text for each setting."""

    label: str
    values: list[list[str]]


@dataclass(frozen=True)
class Example:
    """One clip: players, scores and, by title, one picture for each setting."""

    name: str
    players: list[Player]
    scores: list[Score]
    pictures: dict[str, list[str | None]]


@dataclass(frozen=True)
class Section:
    """One family of distortions: its examples, the settings to choose from and the one shown first."""

    name: str
    anchor: str
    selector: str
    settings: list[str]
    chosen: int
    examples: list[Example]
    figures: dict[str, str]


def build_report(run_dir: Path, out: Path | None = None, lufs: float = -23.0) -> Path:
    """Build the listening page of a run.

    For each family of distortions: examples in rows, methods in columns with a player and all scores, a selector of the
    level, pictures of curves and spectrograms, and the run's own figures if they were drawn. The page loads nothing
    from a network. Audio is copied as FLAC of 16 bits, levelled by `nldiff.metrics.loudness.normalise_loudness`; a
    note marks copies that stay quieter than `lufs` because of their peaks.

    Args:
        run_dir: folder written by `nldiff evaluate` with `save_audio: true`.
        out: folder of the page, RUN_DIR/report by default; a folder with an earlier page is replaced, any other must
            be new or empty.
        lufs: loudness of all players, ITU-R BS.1770-4.

    Returns:
        Path of index.html.

    Raises:
        NldiffError: jinja2 is missing, the run has no audio or a file of it cannot be read, `lufs` is not in -70 to 0,
            or `out` holds something else or cannot be written.
    """
    check_pages()
    if not -70 <= lufs <= 0:
        raise NldiffError(f"loudness {lufs:g} LUFS: -70 to 0 expected")
    cells = run_folder.read_cells(run_dir)
    if not (run_dir / "audio").is_dir():
        raise NldiffError(f"{run_dir} has no folder 'audio': run nldiff evaluate with save_audio=true")
    out = (out or run_dir / "report").resolve()
    _check_replaceable(out)
    # In the same folder as the page, so that the page is replaced completely or not at all.
    with scratch_folder(out.parent) as scratch:
        page = scratch / "page"
        page.mkdir()
        sections = [_section(run_dir, page, name, cells, lufs) for name in dict.fromkeys(cell.task for cell in cells)]
        text = render(
            "page.html",
            smoke=_is_smoke_run(run_dir),
            title=run_dir.resolve().name,
            sections=sections,
            lufs=_number(lufs, 0),
            version=__version__,
        )
        (page / "index.html").write_text(text, encoding="utf-8")
        for name in ("page.css", "page.js"):
            (page / name).write_text(text_of(name), encoding="utf-8")
        replace_folder(page, out)
    return out / "index.html"


def _check_replaceable(out: Path) -> None:
    """Refuse to replace a folder that is not a listening page."""
    if not out.exists():
        return
    if not out.is_dir():
        raise NldiffError(f"{out} is a file: a folder expected")
    index = out / "index.html"
    ours = index.is_file() and _MARK in index.read_text(encoding="utf-8", errors="replace")
    if not ours and any(out.iterdir()):
        raise NldiffError(f"{out} holds something else than a listening page: name an empty or a new folder")


def _section(run_dir: Path, page: Path, task: str, cells: Sequence[run_folder.Cell], lufs: float) -> Section:
    """Write the files of a family of distortions and describe them."""
    looks = looks_of(cell.method for cell in cells)
    cells = [cell for cell in cells if cell.task == task]
    distortions = {cell.distortion: cell for cell in cells}
    # Distortions of equal level are named by their text.
    names = [run_folder.setting_name(cell) for cell in distortions.values()]
    if len(set(names)) < len(names):
        names = list(distortions)
    level_name = cells[0].level_name if names != list(distortions) else ""
    settings = [name.removeprefix(level_name).strip() for name in names]
    methods = {cell.method for cell in cells}
    shown = [method for method in run_folder.estimators(looks) if method in methods]
    tracks = [run_folder.OBSERVED, run_folder.CLEAN, *shown]
    several_seeds = len({cell.seed for cell in cells}) > 1
    examples = []
    for clip, seed in dict.fromkeys((cell.clip, cell.seed) for cell in cells):
        of_example = [cell for cell in cells if (cell.clip, cell.seed) == (clip, seed)]
        by_setting = [[cell for cell in of_example if cell.distortion == name] for name in distortions]
        name = f"{clip}, seed {seed}" if several_seeds else clip
        examples.append(_example(run_dir, page, name, by_setting, tracks, run_folder.metrics_of(cells), looks, lufs))
    figures = {}
    for kind, title in _FIGURES.items():
        drawn = run_dir / "figures" / f"{kind}-{run_folder.slug(task)}.svg"
        if drawn.exists():
            (page / "figures").mkdir(exist_ok=True)
            shutil.copyfile(drawn, page / "figures" / drawn.name)
            figures[title] = quote(f"figures/{drawn.name}")
    selector = level_name[:1].upper() + level_name[1:] or "Distortion"
    return Section(task, run_folder.slug(task), selector, settings, len(settings) // 2, examples, figures)


def _example(
    run_dir: Path,
    page: Path,
    name: str,
    by_setting: Sequence[Sequence[run_folder.Cell]],
    tracks: Sequence[str],
    metrics: Iterable[str],
    looks: dict[str, Look],
    lufs: float,
) -> Example:
    """Write the audio and pictures of a clip; `by_setting` holds its cells, one list for each setting."""
    cells = [{cell.method: cell for cell in of_setting} for of_setting in by_setting]
    copies = [_copies(run_dir, page, of_setting, tracks, lufs) for of_setting in by_setting]
    players = [
        Player(
            _name(track, looks),
            [copy.get(track, (None, ""))[0] for copy in copies],
            [_note(of_setting.get(track), copy.get(track)) for of_setting, copy in zip(cells, copies, strict=True)],
        )
        for track in tracks
    ]
    scores = [
        Score(
            run_folder.metric_label(metric),
            [[_score(of_setting.get(track), metric) for of_setting in cells] for track in tracks],
        )
        for metric in metrics
    ]
    pictures = [_pictures(run_dir, page, of_setting, looks) for of_setting in by_setting]
    titles = dict.fromkeys(title for of_setting in pictures for title in of_setting)
    by_title = {title: [of_setting.get(title) for of_setting in pictures] for title in titles}
    return Example(name, players, scores, by_title)


def _copies(
    run_dir: Path, page: Path, cells: Sequence[run_folder.Cell], tracks: Iterable[str], lufs: float
) -> dict[str, tuple[str, str]]:
    """Levelled copies of a distorted clip: track to its address and a note, empty unless it is quieter than `lufs`."""
    copies = {}
    folder = Path("audio") / cells[0].group if cells else Path()
    for track in tracks if cells else ():
        source = run_dir / folder / f"{run_folder.slug(track)}.flac"
        if not source.exists():
            continue
        samples, rate = sound.read(source)
        levelled = normalise_loudness(samples, rate, lufs)
        target = folder / source.name
        (page / folder).mkdir(parents=True, exist_ok=True)
        sf.write(sound.sound_path(page / target), np.clip(levelled, -1, 1).T, rate, subtype="PCM_16")
        reached = loudness(levelled, rate)
        note = "" if abs(reached - lufs) < _TOLERANCE_LU else f"{_number(reached, 1)} LUFS"
        copies[track] = quote(target.as_posix()), note
    return copies


def _pictures(run_dir: Path, page: Path, cells: Sequence[run_folder.Cell], looks: dict[str, Look]) -> dict[str, str]:
    """Draw curves and spectrograms of a distorted clip: picture's title to its address."""
    if not cells:
        return {}
    group, pictures = cells[0].group, {}
    folder = run_dir / "curves" / group
    if estimates := run_folder.tables_of(folder, run_folder.estimators(looks)):
        figure = plot_curve_grid(
            {run_folder.setting_name(cells[0]): (run_folder.truth_of(folder), estimates)}, looks, title=""
        )
        pictures["Transfer curves"] = f"pictures/{group}-curves.png"
        save_figure(figure, page / pictures["Transfer curves"], _PICTURE_DPI)
    if signals := run_folder.example_signals(run_dir, group, looks):
        renamed = {_name(name, looks): samples for name, samples in signals[0].items()}
        pictures["Spectrograms"] = f"pictures/{group}-spectrograms.png"
        save_figure(plot_spectrogram_row(renamed, signals[1]), page / pictures["Spectrograms"], _PICTURE_DPI)
    return {title: quote(address) for title, address in pictures.items()}


def _name(track: str, looks: dict[str, Look]) -> str:
    """What readers call a track."""
    return _TARGET if track == run_folder.CLEAN else looks[track].label


def _is_smoke_run(run_dir: Path) -> bool:
    """Whether the run was only to see that all works."""
    try:
        settings = yaml.safe_load((run_dir / "settings.yaml").read_text(encoding="utf-8"))
        return bool(settings["config"].get("smoke_run", False))
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return False


def _note(cell: run_folder.Cell | None, copy: tuple[str, str] | None) -> str:
    if cell is not None and cell.failed:
        return f"failed: {cell.error}"
    return copy[1] if copy else "not available"


def _score(cell: run_folder.Cell | None, metric: str) -> str:
    value = cell.scores.get(metric) if cell else None
    return "–" if value is None else _number(value, 2)


def _number(value: float, digits: int) -> str:
    if not np.isfinite(value):
        return "−∞"
    return f"{value:.{digits}f}".replace("-", "−")
