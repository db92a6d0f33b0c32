"""The tables of a run: results.csv, results.parquet, frechet.csv and summary.md."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nldiff.errors import NldiffError
from nldiff.evaluation.scoring import EMBEDDINGS
from nldiff.figures.run_folder import metric_label, slug
from nldiff.metrics.frechet import set_distance
from nldiff.metrics.packages import import_package
from nldiff.metrics.statistics import Interval, Statistic, bootstrap, compare
from nldiff.writing import atomic_path

Row: TypeAlias = Mapping[str, Any]
_TEXT = ("task", "distortion", "level_name", "method", "clip", "status", "error")
_SETTING = ("task", "distortion", "level", "level_name", "method")


def cell_name(distortion: str, method: str, clip: str, seed: int) -> str:
    """Stem of a cell's files."""
    return slug(f"{distortion}__{method}__{clip}__{seed}")


def clean_name(clip: str) -> str:
    """Stem of a clean clip's files."""
    return slug(f"clean__{clip}")


def require_parquet() -> Any:
    """Import the module that writes Parquet files.

    Raises:
        NldiffError: its package is not installed.
    """
    return import_package("pyarrow.parquet", "evaluate")


def write_tables(
    folder: Path,
    rows: Sequence[Row],
    metrics: Sequence[str],
    embeddings: Sequence[str],
    compare_to: str,
    problems: Sequence[str] = (),
) -> None:
    """Write all tables of a run.

    Args:
        folder: folder of the run.
        rows: one for each cell, with equal keys in equal order.
        metrics: keys of `rows` to summarise.
        embeddings: keys of `EMBEDDINGS` for the Fréchet distances between the files in `folder/embeddings`.
        compare_to: the method that the others are compared with, clip by clip.
        problems: one line for every value that could not be computed.

    Raises:
        NldiffError: a table cannot be written.
    """
    distances, more = _distances(folder, rows, embeddings)
    _write_csv(folder / "results.csv", rows)
    _write_parquet(folder / "results.parquet", rows)
    if distances:
        _write_csv(folder / "frechet.csv", distances)
    with atomic_path(folder / "summary.md") as temporary:
        temporary.write_text(summary(rows, metrics, distances, compare_to, [*problems, *more]), encoding="utf-8")


def summary(
    rows: Sequence[Row], metrics: Sequence[str], distances: Sequence[Row], compare_to: str, problems: Sequence[str] = ()
) -> str:
    """Medians, means, paired comparisons, Fréchet distances, failures and missing values as Markdown."""
    failed = [row for row in rows if row["status"] != "ok"]
    lines = [
        "# Results",
        "",
        f"{len(rows)} cells, {len(failed)} failed. In brackets: 95 % intervals of the bootstrap over clips; several "
        "seeds of a clip are averaged first. p: two-sided Wilcoxon signed-rank test, not corrected for the number "
        "of comparisons.",
    ]
    for task in dict.fromkeys(row["task"] for row in rows):
        part = [row for row in rows if row["task"] == task]
        others = [row for row in part if row["method"] != compare_to]
        lines += ["", f"## {task}"]
        lines += ["", "### Median", "", *_statistics(part, metrics, "median")]
        lines += ["", "### Mean", "", *_statistics(part, metrics, "mean")]
        if len(others) < len(part) and others:
            title = f"### Difference from {compare_to} on the same clips, median"
            lines += ["", title, "", *_comparisons(part, metrics, compare_to)]
        entries = [entry for entry in distances if entry["task"] == task]
        if entries:
            lines += ["", "### Fréchet distance to the clean clips", "", *_set_table(entries)]
    if failed:
        body = [[row[key] for key in ("distortion", "method", "clip", "seed", "error")] for row in failed]
        lines += ["", "## Failures", "", *_table(["distortion", "method", "clip", "seed", "reason"], body)]
    body = [[problem, count] for problem, count in Counter(problems).items()]
    if body:
        lines += ["", "## Values that could not be computed", "", *_table(["reason", "times"], body)]
    return "\n".join(lines) + "\n"


def by_clip(rows: Iterable[Row], metric: str) -> dict[str, float]:
    """Clip -> mean of a metric over the seeds of the clip; clips without a value are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["status"] == "ok" and row[metric] is not None:
            values.setdefault(row["clip"], []).append(row[metric])
    return {clip: float(np.mean(numbers)) for clip, numbers in values.items()}


def _groups(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """(distortion, method) -> its rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["distortion"], row["method"]), []).append(row)
    return groups


def _statistics(rows: Sequence[Row], metrics: Sequence[str], statistic: Statistic) -> list[str]:
    body = []
    for (distortion, method), group in _groups(rows).items():
        clips = len({row["clip"] for row in group if row["status"] == "ok"})
        scores = [list(by_clip(group, metric).values()) for metric in metrics]
        cells = [_interval(bootstrap(values, statistic)) + _count(len(values), clips) for values in scores]
        failed = sum(row["status"] != "ok" for row in group)
        body.append([distortion, method, clips, failed, *cells])
    return _table(["distortion", "method", "clips", "failed", *map(metric_label, metrics)], body)


def _comparisons(rows: Sequence[Row], metrics: Sequence[str], compare_to: str) -> list[str]:
    groups = _groups(rows)
    body = []
    for (distortion, method), group in groups.items():
        if method == compare_to:
            continue
        cells = []
        for metric in metrics:
            a, b = by_clip(group, metric), by_clip(groups.get((distortion, compare_to), []), metric)
            clips = [clip for clip in a if clip in b]
            result = compare([a[clip] for clip in clips], [b[clip] for clip in clips])
            p_value = f", p {'< 0.001' if result.p_value < 0.001 else f'= {result.p_value:.3f}'}" if clips else ""
            cells.append(_interval(result.difference, "+") + p_value + _count(result.pairs, len(a)))
        body.append([distortion, method, *cells])
    return _table(["distortion", "method", *map(metric_label, metrics)], body)


def _set_table(distances: Sequence[Row]) -> list[str]:
    kinds = list(dict.fromkeys(entry["embedding"] for entry in distances))
    body = []
    for (distortion, method), group in _groups(distances).items():
        found = {entry["embedding"]: entry for entry in group}
        clips = max(entry["clips"] for entry in group)
        cells = [_number(found[kind]["distance"]) if kind in found else "–" for kind in kinds]
        body.append([distortion, method, clips, *cells])
    return _table(["distortion", "method", "clips", *kinds], body)


def _distances(folder: Path, rows: Sequence[Row], embeddings: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Fréchet distances between restored and clean clips: one row for each distortion, method and embedding."""
    entries, problems = [], []
    for ((distortion, method), group), kind in product(_groups(rows).items(), embeddings):
        done = [row for row in group if row["status"] == "ok"]
        names = [(clean_name(r["clip"]), cell_name(distortion, method, r["clip"], r["seed"])) for r in done]
        pairs = [[embedding_path(folder, kind, name) for name in pair] for pair in names]
        pairs = [pair for pair in pairs if all(path.is_file() for path in pair)]
        if not pairs:
            continue  # the reason was told when the embedding was to be made
        try:
            value = set_distance(*([np.load(path) for path in paths] for paths in zip(*pairs, strict=True)))
        except NldiffError as error:
            problems.append(f"{kind}, {distortion}, {method}: {error}")
        else:
            entry = {key: group[0][key] for key in _SETTING} | {"embedding": EMBEDDINGS[kind][0], "distance": value}
            entries.append(entry | {"clips": len(pairs)})
    return entries, problems


def embedding_path(folder: Path, kind: str, name: str) -> Path:
    """Path of the embedding of a cell or a clean clip; `name` is a `cell_name` or `clean_name`."""
    return folder / "embeddings" / kind / f"{name}.npy"


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    parquet = require_parquet()
    arrow = import_package("pyarrow", "evaluate")
    types = {name: arrow.string() for name in _TEXT} | {"seed": arrow.int64()}
    schema = arrow.schema([(name, types.get(name, arrow.float64())) for name in rows[0]])
    with atomic_path(path) as temporary:
        parquet.write_table(arrow.Table.from_pylist([dict(row) for row in rows], schema), temporary)


def _table(header: Sequence[str], body: Iterable[Sequence[Any]]) -> list[str]:
    rows = [header, ["---"] * len(header), *body]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def _interval(interval: Interval, sign: str = "") -> str:
    bounds = f" [{_number(interval.low)}, {_number(interval.high)}]" if np.isfinite(interval.low) else ""
    return _number(interval.estimate, sign) + bounds


def _number(value: float | None, sign: str = "") -> str:
    return "–" if value is None or np.isnan(value) else f"{value:{sign}.{2 if abs(value) >= 1 else 3}f}"


def _count(values: int, clips: int) -> str:
    """The number of clips with a value, if some have none."""
    return f" (of {values})" if 0 < values < clips else ""
