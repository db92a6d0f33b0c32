"""Figures of scores: boxes, violins, means against the level, Fréchet distances."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nldiff.figures.run_folder import OBSERVED, Cell, metric_label, metrics_of
from nldiff.figures.style import Look, add_legend, make_panels
from nldiff.metrics.statistics import bootstrap

# Fewer values have no quartiles worth drawing.
_LEAST_OF_A_BOX = 4


def plot_boxes(cells: Sequence[Cell], looks: Mapping[str, Look]) -> Figure:
    """Boxes (quartiles, median, whiskers of 1.5 times their distance) of every metric, a panel each; few are points.

    Args:
        cells: cells of one task; failed ones are left out of the boxes and counted in the label.
        looks: from `looks_of`.
    """
    figure, panels = _score_panels(cells, f"{cells[0].task}: scores of all cells")
    for metric, axes in panels.items():
        drawn = {name: values for name in looks if (values := _values(cells, metric, name))}
        places = {name: place for place, name in enumerate(drawn, 1)}
        many = [name for name, values in drawn.items() if len(values) >= _LEAST_OF_A_BOX]
        if many:
            sets, at = [drawn[name] for name in many], [places[name] for name in many]
            boxes = axes.boxplot(sets, positions=at, widths=0.6, patch_artist=True, medianprops={"color": "black"})
            for name, box in zip(many, boxes["boxes"], strict=True):
                box.set(facecolor=_fill(name, looks), hatch=looks[name].hatch)
        for name in drawn.keys() - set(many):
            points, fill, marker = [places[name]] * len(drawn[name]), _fill(name, looks), looks[name].marker or "o"
            axes.scatter(points, drawn[name], marker=marker, s=36, zorder=3, facecolor=fill, edgecolor="black")
        axes.set_xlim(0.4, len(drawn) + 0.6)
        labels = [_with_failures(name, cells, looks) for name in drawn]
        axes.set_xticks(range(1, len(labels) + 1), labels, rotation=30, ha="right", rotation_mode="anchor")
    return figure


def plot_violins(cells: Sequence[Cell], looks: Mapping[str, Look]) -> Figure:
    """Distributions of every metric at each level, a panel each; bars from quartile to quartile, median marked.

    Args:
        cells: cells of one task, with levels; failed ones are counted in the legend.
        looks: from `looks_of`.
    """
    levels, methods = _levels(cells), _present(cells, looks)
    title, inches = f"{cells[0].task}: scores for each {cells[0].level_name}", 0.16 * len(levels) * len(methods)
    figure, panels = _score_panels(cells, title, max(4.2, inches))
    width = 0.8 / len(methods)
    for metric, axes in panels.items():
        for n, (method, look) in enumerate(methods.items()):
            places = np.arange(len(levels)) + (n + 0.5) * width - 0.4
            found = zip(places, (_values(cells, metric, method, level) for level in levels), strict=True)
            sets = [(place, values) for place, values in found if values]
            if not sets:
                continue
            positions, values = zip(*sets, strict=True)
            bodies: Any = axes.violinplot(values, positions, widths=0.95 * width, showextrema=False)["bodies"]
            for body in bodies:
                body.set(facecolor=_fill(method, looks), edgecolor="black", linewidth=0.8, hatch=look.hatch, alpha=0.7)
            low, middle, high = np.array([np.quantile(v, [0.25, 0.5, 0.75]) for v in values]).T
            axes.vlines(positions, low, high, color="black", linewidth=2.5)
            axes.scatter(positions, middle, marker="o", s=16, color="white", edgecolor="black", zorder=3)
        axes.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        # The same limits in all panels, also where some methods are missing.
        axes.set_xlim(-0.5, len(levels) - 0.5)
        axes.set_xlabel(f"{cells[0].level_name} (dB)")
    _patch_legend(figure, cells, methods, looks)
    return figure


def plot_levels(cells: Sequence[Cell], looks: Mapping[str, Look]) -> Figure:
    """Mean of every metric against the level, a panel each, with bands of 95 % (percentile bootstrap over clips).

    Args:
        cells: cells of one task, with levels; failed ones are counted in the legend.
        looks: from `looks_of`.
    """
    figure, panels = _score_panels(cells, f"{cells[0].task}: mean scores with 95 % confidence bands")
    methods = _present(cells, looks)
    lines = {}
    for metric, axes in panels.items():
        for method, look in methods.items():
            sets = [(level, _values(cells, metric, method, level)) for level in _levels(cells)]
            sets = [(level, values) for level, values in sets if values]
            if not sets:
                continue
            levels, values = zip(*sets, strict=True)
            means = [bootstrap(v, "mean") for v in values]
            style = {"color": look.colour, "linestyle": look.line, "marker": look.marker}
            (lines[method],) = axes.plot(levels, [mean.estimate for mean in means], **style)
            low, high = [mean.low for mean in means], [mean.high for mean in means]
            axes.fill_between(levels, low, high, color=look.colour, alpha=0.15, linewidth=0)
        axes.set_xticks(_levels(cells))
        axes.set_xlabel(f"{cells[0].level_name} (dB)")
    add_legend(figure, lines.values(), [_with_failures(name, cells, looks) for name in lines])
    return figure


def plot_frechet(rows: Sequence[Mapping[str, str]], looks: Mapping[str, Look]) -> Figure:
    """Bars of Fréchet distances, a panel for each task and embedding.

    Args:
        rows: rows of text, with keys task, distortion, level, level_name, method, embedding and distance.
        looks: from `looks_of`.
    """
    panels = list(dict.fromkeys((row["task"], row["embedding"]) for row in rows))
    figure, axes_of = make_panels(len(panels), "Fréchet distance to the clean recordings", columns=2)
    methods = {name: look for name, look in looks.items() if any(row["method"] == name for row in rows)}
    width = 0.8 / len(methods)
    for (task, embedding), axes in zip(panels, axes_of, strict=True):
        shown = [row for row in rows if (row["task"], row["embedding"]) == (task, embedding)]
        settings = {row["distortion"]: f"{float(row['level']):g}" if row["level"] else "" for row in shown}
        for row in shown:
            n, look = list(methods).index(row["method"]), looks[row["method"]]
            at = list(settings).index(row["distortion"]) + (n + 0.5) * width - 0.4
            fill: dict[str, Any] = {"color": _fill(row["method"], looks), "edgecolor": "black", "hatch": look.hatch}
            axes.bar(at, float(row["distance"]), 0.92 * width, linewidth=0.8, **fill)
        axes.set_title(task, fontsize="medium")
        axes.set_xticks(range(len(settings)), list(settings.values()))
        axes.set_xlabel(f"{shown[0]['level_name']} (dB)" if shown[0]["level_name"] else "")
        axes.set_ylabel(f"distance, {embedding} ↓")
    _patch_legend(figure, [], methods, looks)
    return figure


def _score_panels(cells: Sequence[Cell], title: str, width: float = 4.2) -> tuple[Figure, dict[str, Axes]]:
    """An axes for each metric, at least `width` inches wide."""
    metrics = metrics_of(cells)
    figure, panels = make_panels(len(metrics), title, max(1, int(14 / width)), (width, 3.2))
    for metric, axes in zip(metrics, panels, strict=True):
        axes.set_ylabel(metric_label(metric))
    return figure, dict(zip(metrics, panels, strict=True))


def _values(cells: Iterable[Cell], metric: str, method: str, level: float | None = None) -> list[float]:
    """Scores of a method, at one level if it is given; the seeds of a distorted clip are averaged."""
    scores: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        if cell.method == method and level in (None, cell.level) and metric in cell.scores:
            scores.setdefault((cell.distortion, cell.clip), []).append(cell.scores[metric])
    return [float(np.mean(seeds)) for seeds in scores.values()]


def _levels(cells: Iterable[Cell]) -> list[float]:
    return sorted({cell.level for cell in cells if cell.level is not None})


def _present(cells: Iterable[Cell], looks: Mapping[str, Look]) -> dict[str, Look]:
    methods = {cell.method for cell in cells}
    return {name: look for name, look in looks.items() if name in methods}


def _with_failures(method: str, cells: Iterable[Cell], looks: Mapping[str, Look]) -> str:
    failed, label = [cell.failed for cell in cells if cell.method == method], looks[method].label
    return f"{label} ({sum(failed)} of {len(failed)} failed)" if any(failed) else label


def _fill(method: str, looks: Mapping[str, Look]) -> str:
    return "white" if method == OBSERVED else looks[method].colour


def _patch_legend(figure: Figure, cells: Sequence[Cell], methods: Iterable[str], looks: Mapping[str, Look]) -> None:
    patches = [Patch(facecolor=_fill(n, looks), edgecolor="black", hatch=looks[n].hatch) for n in methods]
    add_legend(figure, patches, [_with_failures(name, cells, looks) for name in methods])
