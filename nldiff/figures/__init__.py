"""Figures of an experiment, drawn from the folder that `nldiff evaluate` wrote.

`plots` draws single restorations, the other modules compare methods. Every method looks the same in all figures of a
run: colours are distinct with colour blindness; line styles, markers and hatches are distinct in grey. Each function
returns a `Figure` of its own, without pyplot; `draw` writes all figures of a run. May import `errors`, `writing`,
`sound`, `transforms` and `metrics`, and knows nothing of methods and of how experiments run.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from nldiff.figures import run_folder
from nldiff.figures.plots import save_figure
from nldiff.figures.scores import plot_boxes, plot_frechet, plot_levels, plot_violins
from nldiff.figures.signals import plot_curve_grid, plot_evolution, plot_spectrogram_row
from nldiff.figures.style import Look, looks_of
from nldiff.writing import replace_together, scratch_folder


def draw(run_dir: Path) -> list[Path]:
    """Draw every figure that the run has data for to RUN_DIR/figures, as PNG and SVG.

    With TASK a family of distortions and DISTORTION its text as a file name:

    - `boxes-TASK`: scores of each method; `violins-TASK` and `levels-TASK`: scores, and means with 95 % bands, for each
      input SDR or gain;
    - `frechet`: Fréchet distances, from frechet.csv;
    - `curves`: estimates and truth, a panel for each distortion;
    - `spectrograms-DISTORTION`;
    - `evolution-DISTORTION`: the cost over the steps and, from a table traces/CELLGROUP/METHOD.curves.csv with a column
      x and a column for each step, the curve.

    Figures of a single clip show the first clip.

    Args:
        run_dir: folder written by `nldiff evaluate`.

    Returns:
        The files written.

    Raises:
        NldiffError: results.csv or another file of the run cannot be read, or a figure cannot be written.
    """
    drawn = []
    with scratch_folder(run_dir / "figures") as scratch:
        for name, figure in _figures(run_dir, run_folder.read_cells(run_dir)):
            for suffix in (".png", ".svg"):
                drawn.append(scratch / f"{name}{suffix}")
                save_figure(figure, drawn[-1])
        if drawn:
            replace_together(drawn, run_dir / "figures")
    return [run_dir / "figures" / path.name for path in drawn]


def _figures(run_dir: Path, cells: Sequence[run_folder.Cell]) -> Iterator[tuple[str, Figure]]:
    """Name and figure of everything that the run has data for."""
    looks = looks_of(cell.method for cell in cells)
    for task in dict.fromkeys(cell.task for cell in cells):
        of_task = [cell for cell in cells if cell.task == task]
        if run_folder.metrics_of(of_task):
            yield f"boxes-{run_folder.slug(task)}", plot_boxes(of_task, looks)
        with_level = [cell for cell in of_task if cell.level is not None]
        if run_folder.metrics_of(with_level):
            yield f"violins-{run_folder.slug(task)}", plot_violins(with_level, looks)
        if run_folder.metrics_of(with_level) and len({cell.level for cell in with_level}) > 1:
            yield f"levels-{run_folder.slug(task)}", plot_levels(with_level, looks)
    if (run_dir / "frechet.csv").exists():
        yield "frechet", plot_frechet(run_folder.read_table(run_dir / "frechet.csv"), looks)

    curves = {}
    for distortion in dict.fromkeys(cell.distortion for cell in cells):
        of_distortion = [cell for cell in cells if cell.distortion == distortion]
        title = f"{of_distortion[0].task}, {run_folder.setting_name(of_distortion[0])}"
        for kind in ("curves", "audio", "traces"):
            cell = next((cell for cell in of_distortion if (run_dir / kind / cell.group).is_dir()), None)
            if cell is None:
                continue
            folder, truth = run_dir / kind / cell.group, run_folder.truth_of(run_dir / "curves" / cell.group)
            if kind == "curves" and (estimates := run_folder.tables_of(folder, run_folder.estimators(looks))):
                curves[title if cell.level is not None else cell.task] = (truth, estimates)
            if kind == "audio" and (signals := run_folder.example_signals(run_dir, cell.group, looks)):
                named = {looks[name].label if name in looks else name: audio for name, audio in signals[0].items()}
                figure = plot_spectrogram_row(named, signals[1], f"{title}: {cell.clip}")
                yield f"spectrograms-{run_folder.slug(distortion)}", figure
            if kind == "traces" and (costs := run_folder.tables_of(folder, looks)):
                shapes = run_folder.tables_of(folder, looks, ".curves.csv")
                figure = plot_evolution(costs, shapes, looks, truth, f"{title}: {cell.clip}")
                yield f"evolution-{run_folder.slug(distortion)}", figure
    if curves:
        yield "curves", plot_curve_grid(curves, looks)
