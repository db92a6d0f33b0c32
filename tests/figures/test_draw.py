from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from drawn import drawn_texts, legend
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from run_folders import SETTINGS, write_run

from nldiff import figures
from nldiff.errors import NldiffError
from nldiff.figures.run_folder import Cell

METHODS = ("observed", "ccr", "mlp")
LOOKS = figures.looks_of(METHODS)
LEVELS = (1.0, 3.0, 10.0)
CLIPS = 6


def make_cells() -> list[Cell]:
    """Scores of clips at levels: SI-SDR is 10 times the method's place, plus the level, plus the clip's number."""
    cells = []
    for n, method in enumerate(METHODS):
        for level in LEVELS:
            for clip in range(CLIPS):
                failed = (method, level, clip) == ("mlp", 3.0, 0)
                scores = {} if failed else {"si_sdr": 10 * n + level + clip, "lsd": 1.0 + n}
                text = f"hard_clip:sdr={level:g}"
                cells.append(Cell("hard_clip", text, level, "input SDR", method, f"c{clip}", "0", failed, "no", scores))
    return cells


GRID = np.linspace(-0.2, 0.2, 201)
TRUTH = {"x": GRID, "y": GRID.clip(-0.1, 0.1)}
CURVES = {"ccr": {"x": GRID, "y": 0.5 * GRID}, "mlp": {"x": 0.5 * GRID, "y": GRID**3}}
COSTS: dict[str, Any] = {
    name: {"step": np.arange(1, 9), "cost": np.geomspace(30, n, 8)} for n, name in ((2, "ccr"), (3, "mlp"))
}
EVOLUTION = {"ccr": {"x": GRID, "1": GRID, "4": 0.8 * GRID, "8": 0.5 * GRID}}
NOISE = np.random.default_rng(0).standard_normal(8000)
DISTANCES = [
    {"task": task, "distortion": f"{task}{level}", "level": level, "level_name": "gain" if level else ""}
    | {"method": method, "embedding": "VGGish (FAD)", "distance": str(10.0 * n + len(level))}
    for task, levels in (("overdrive", ("20.0", "50.0")), ("half_wave", ("",)))
    for level in levels
    for n, method in enumerate(METHODS)
]

FIGURES: dict[str, Callable[[], Figure]] = {
    "boxes": lambda: figures.plot_boxes(make_cells(), LOOKS),
    "violins": lambda: figures.plot_violins(make_cells(), LOOKS),
    "levels": lambda: figures.plot_levels(make_cells(), LOOKS),
    "frechet": lambda: figures.plot_frechet(DISTANCES, LOOKS),
    "curves": lambda: figures.plot_curve_grid({"one": (TRUTH, CURVES), "two": (None, CURVES)}, LOOKS),
    "spectrograms": lambda: figures.plot_spectrogram_row({f"s{n}": NOISE for n in range(7)}, 8000, "seven"),
    "evolution": lambda: figures.plot_evolution(COSTS, EVOLUTION, LOOKS, TRUTH, "evolution"),
    "evolution of costs": lambda: figures.plot_evolution(COSTS, {}, LOOKS),
}


def expected(method: str, level: float) -> np.ndarray:
    clips = np.arange(1 if (method, level) == ("mlp", 3.0) else 0, CLIPS)
    return 10 * METHODS.index(method) + level + clips


def test_looks_differ_in_colour_and_in_grey() -> None:
    looks = figures.looks_of([*(f"m{n}" for n in range(39)), "observed", "m0"])
    assert next(iter(looks)) == "observed" and len(looks) == 40
    assert looks["observed"].colour == "black"
    for one, other in combinations(list(looks.values())[1:], 2):
        assert (one.colour, one.marker) != (other.colour, other.marker)
        assert (str(one.line), one.marker) != (str(other.line), other.marker)
        assert (one.marker == other.marker) == (one.hatch == other.hatch)


def test_boxes() -> None:
    axes, other = figures.plot_boxes(make_cells(), LOOKS).axes
    assert [axes.get_ylabel(), other.get_ylabel()] == ["SI-SDR (dB) ↑", "LSD (bel²) ↓"]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["distorted", "nldiff, spline", "nldiff, MLP (1 of 18 failed)"]
    boxes: list[Any] = list(axes.patches)
    assert [box.get_hatch() for box in boxes] == ["", "", LOOKS["mlp"].hatch]
    assert [to_rgb(box.get_facecolor()) for box in boxes[1:]] == [to_rgb(LOOKS[name].colour) for name in METHODS[1:]]
    for box, method in zip(boxes, METHODS, strict=True):
        quartiles = np.quantile(np.concatenate([expected(method, level) for level in LEVELS]), [0.25, 0.75])
        ends = box.get_path().vertices[:, 1]
        np.testing.assert_allclose([ends.min(), ends.max()], quartiles)


def test_a_method_has_one_look_in_all_runs_and_a_name_for_readers() -> None:
    one, other = (
        figures.looks_of(["mine", "demucs", "ccr"]),
        figures.looks_of(["observed", "ccr", "informed", "demucs"]),
    )
    for method in ("ccr", "demucs", "observed"):
        assert one[method] == other[method]
    assert [look.label for look in other.values()] == ["distorted", "nldiff", "nldiff, told the distortion", "Demucs"]
    assert len({look.colour for look in other.values()}) == 4
    assert one["mine"].label == "mine"


def test_few_values_are_points_and_no_boxes() -> None:
    cells = [Cell("t", "t", None, "", m, "a", "0", scores={"si_sdr": 3.0}) for m in ("observed", "ccr")]
    (axes,) = figures.plot_boxes(cells, LOOKS).axes
    assert len(axes.patches) == 0
    assert [np.asarray(points.get_offsets()).tolist() for points in axes.collections] in (
        [[[1, 3]], [[2, 3]]],
        [[[2, 3]], [[1, 3]]],
    )


def test_spectrograms_end_at_8_khz() -> None:
    *panels, _ = figures.plot_spectrogram_row({"a": NOISE, "b": NOISE}, 44100).axes
    assert [axes.get_ylim() for axes in panels] == [(0, 8)] * 2


def test_violins() -> None:
    figure = figures.plot_violins(make_cells(), LOOKS)
    axes = figure.axes[0]
    assert legend(figure) == ["distorted", "nldiff, spline", "nldiff, MLP (1 of 18 failed)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "3", "10"]
    assert axes.get_xlabel() == "input SDR (dB)"
    assert axes.get_xlim() == (-0.5, 2.5)  # also where a method has no values
    medians = [found for found in axes.collections if np.shape(found.get_offsets()) == (3, 2)]
    for n, (method, points) in enumerate(zip(METHODS, medians, strict=True)):
        at, values = np.asarray(points.get_offsets()).T
        np.testing.assert_allclose(at, np.arange(3) + (n - 1) * 0.8 / 3)
        np.testing.assert_allclose(values, [np.median(expected(method, level)) for level in LEVELS])


def test_levels() -> None:
    figure = figures.plot_levels(make_cells(), LOOKS)
    axes = figure.axes[0]
    for method, line, band in zip(METHODS, axes.get_lines(), axes.collections, strict=True):
        scores = [expected(method, level) for level in LEVELS]
        np.testing.assert_array_equal(line.get_xdata(), LEVELS)
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [np.mean(values) for values in scores])
        corners = np.asarray(band.get_paths()[0].vertices)
        for level, values in zip(LEVELS, scores, strict=True):
            low, high = (function(corners[corners[:, 0] == level, 1]) for function in (np.min, np.max))
            # the normal approximation of the mean's 95 % interval
            half = 1.96 * np.std(values) / np.sqrt(len(values))
            np.testing.assert_allclose([low, high], np.mean(values) + half * np.array([-1, 1]), atol=0.15)
    observed = axes.get_lines()[0]
    assert (observed.get_color(), observed.get_marker(), observed.is_dashed()) == ("black", "", True)


def test_seeds_of_a_clip_count_once() -> None:
    def cell(clip: str, seed: str, score: float) -> Cell:
        return Cell("t", "t:sdr=1", 1.0, "input SDR", "ccr", clip, seed, scores={"si_sdr": score})

    cells = [cell("a", "0", 1.0), cell("a", "1", 3.0), cell("b", "0", 8.0)]
    (line,) = figures.plot_levels(cells, LOOKS).axes[0].get_lines()
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [(2 + 8) / 2])


def test_frechet_distances() -> None:
    overdrive, half_wave = figures.plot_frechet(DISTANCES, LOOKS).axes
    heights = [patch.get_height() for patch in overdrive.patches]  # type: ignore[attr-defined]
    assert heights == [4, 14, 24, 4, 14, 24]
    middles = [patch.get_x() + patch.get_width() / 2 for patch in overdrive.patches]  # type: ignore[attr-defined]
    np.testing.assert_allclose(middles, np.repeat([0, 1], 3) + 0.8 / 3 * np.tile([-1, 0, 1], 2))
    assert [label.get_text() for label in overdrive.get_xticklabels()] == ["20", "50"]
    assert (overdrive.get_xlabel(), half_wave.get_xlabel()) == ("gain (dB)", "")
    assert overdrive.get_ylabel() == "distance, VGGish (FAD) ↓"


def test_curve_grid() -> None:
    figure = FIGURES["curves"]()
    with_truth, _ = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    assert [len(axes.get_lines()) for axes in figure.axes] == [4, 3]
    ccr, mlp, truth, _ = with_truth.get_lines()
    np.testing.assert_array_equal(ccr.get_ydata(), 0.5 * GRID)
    np.testing.assert_array_equal(mlp.get_xdata(), 0.5 * GRID)
    np.testing.assert_array_equal(truth.get_ydata(), TRUTH["y"])
    assert with_truth.get_xlim() == (-0.2, 0.2)
    assert legend(figure) == ["nldiff, spline", "nldiff, MLP", "truth", "identity"]
    wild = {"ccr": {"x": GRID, "y": 1000 * GRID}}
    assert figures.plot_curve_grid({"wild": (TRUTH, wild)}, LOOKS).axes[0].get_ylim()[1] < 0.2


def test_spectrograms_share_one_scale() -> None:
    rate = 8000
    loud = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    figure = figures.plot_spectrogram_row({"loud": loud, "quiet": 0.01 * loud}, rate)
    *panels, bar = figure.axes
    assert bar.get_ylabel() == "level (dB)"
    assert {axes.images[0].get_clim() for axes in panels} == {(-80.0, 0.0)}
    peaks = [np.asarray(axes.images[0].get_array())[:, 10].max() for axes in panels]
    np.testing.assert_allclose(peaks, [0, -40], atol=0.5)
    assert [axes.get_title() for axes in panels] == ["loud", "quiet"]
    assert list(panels[0].images[0].get_extent()) == [0, 1, 0, 4]


def test_spectrograms_with_a_logarithmic_frequency_axis() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    *panels, _ = figures.plot_spectrogram_row({"loud": tone, "quiet": 0.01 * tone}, 8000, frequency="cqt").axes
    for axes, level in zip(panels, (0, -40), strict=True):
        middle = np.asarray(axes.images[0].get_array())[:, 10]
        assert middle.max() == pytest.approx(level, abs=0.1)
        assert middle.argmax() == 3 * 24  # three octaves above 55 Hz


def test_evolution() -> None:
    cost, curve, bar = FIGURES["evolution"]().axes
    for line, table in zip(cost.get_lines(), COSTS.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), table["cost"])
    assert (cost.get_yscale(), cost.get_xlabel(), bar.get_ylabel()) == ("log", "diffusion step", "diffusion step")
    *steps, truth = curve.get_lines()
    assert [line.get_ydata()[-1] for line in steps] == pytest.approx([0.2, 0.16, 0.1])  # type: ignore[index]
    np.testing.assert_array_equal(truth.get_ydata(), TRUTH["y"])
    lightness = [np.dot(to_rgb(line.get_color()), (0.3, 0.6, 0.1)) for line in steps]
    assert lightness[0] > lightness[1] + 0.1 > lightness[2] + 0.2


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_overlaps_or_is_cut_off(name: str) -> None:
    figure = FIGURES[name]()
    FigureCanvasAgg(figure).draw()
    # boxes of turned labels say nothing of what is inside
    texts = [text for text in drawn_texts(figure) if text.get_rotation() in (0, 90)]
    if figure._suptitle:  # type: ignore[attr-defined]
        texts.append(figure._suptitle)  # type: ignore[attr-defined]
    boxes = {text: text.get_window_extent() for text in texts}
    assert len(boxes) > 8
    for text, box in boxes.items():
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)


def test_everything_that_a_run_has_is_drawn(tmp_path: Path) -> None:
    settings = (SETTINGS[1], SETTINGS[2], SETTINGS[3])
    run = write_run(tmp_path, methods={"observed": 1.0, "blind-ccr": 0.3}, settings=settings)
    paths = figures.draw(run)
    names = {"boxes-hard_clip", "violins-hard_clip", "levels-hard_clip", "boxes-half_wave", "frechet", "curves"}
    for distortion in ("hard_clip-sdr-3", "hard_clip-sdr-7", "half_wave"):
        names |= {f"spectrograms-{distortion}", f"evolution-{distortion}"}
    assert sorted(path.name for path in paths) == sorted(f"{name}{kind}" for name in names for kind in (".png", ".svg"))
    assert sorted(paths) == sorted((run / "figures").iterdir())
    for path in paths:
        if path.suffix == ".png":
            assert imread(path)[..., :3].min() < 0.3
        else:
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_run_without_levels_audio_and_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "whole", methods={"observed": 1.0}, settings=SETTINGS[3:])
    (tmp_path / "bare").mkdir()
    (run / "results.csv").rename(tmp_path / "bare" / "results.csv")
    assert [path.name for path in figures.draw(tmp_path / "bare")] == ["boxes-half_wave.png", "boxes-half_wave.svg"]
    with pytest.raises(NldiffError, match=r"results\.csv does not exist"):
        figures.draw(run)
