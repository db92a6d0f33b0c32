import json
import math
import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers import save_tiny_prior
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The notebook on a second of audio, three steps and a prior of random weights."""
    prior = save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors", sample_rate=44100)
    notebook = nbformat.read(ROOT / "notebooks" / "transfer_curves.ipynb", as_version=4)
    environment = os.environ | {
        "NLDIFF_SECONDS": "1", "NLDIFF_STEPS": "3", "NLDIFF_PRIOR": str(prior), "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}})
    yield client.execute(env=environment)


def outputs(notebook: Any, kind: str) -> list[str]:
    """Data of one MIME type, in the order shown."""
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output["data"][kind] for output in shown if kind in output.get("data", {})]


def test_the_figures_are_shown(executed: Any) -> None:
    sizes = [len(picture) for picture in outputs(executed, "image/png")]
    assert len(sizes) == 2  # curves and spectrograms
    assert min(sizes) > 10_000


def test_clean_distorted_and_restored_can_be_heard(executed: Any) -> None:
    players = [html for html in outputs(executed, "text/html") if "<audio" in html]
    assert len(players) == 2 + 3


def test_the_table_has_finite_numbers_for_every_waveshaper(executed: Any) -> None:
    (table,) = outputs(executed, "text/markdown")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert [row[0] for row in rows[2:]] == ["none", "ccr", "mlp", "sumtanh"]
    assert all(math.isfinite(float(number)) for row in rows[2:] for number in row[1:])
    # 3 dB is what the input SDR was set to; the SI-SDR of a clipper's output is close to it or above
    assert float(rows[2][1]) > 3


def test_nothing_was_printed_as_a_warning(executed: Any) -> None:
    shown = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output["text"] for output in shown if output.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_with_the_output_of_their_code(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert notebook.metadata["code"] == runpy.run_path(str(path.parent / "execute.py"))["code_mark"](notebook)
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert len(outputs(notebook, "image/png")) == 2
    text = json.dumps([cell.outputs for cell in cells])
    assert len(text) < 1_000_000
    for private in ("/root", "/home", "/tmp", "/work", str(Path.home())):
        assert f"{private}/" not in text
