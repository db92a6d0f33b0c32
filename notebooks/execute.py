"""Executes a notebook and keeps its output, with a mark of the code that it belongs to.

python notebooks/execute.py NOTEBOOK...
"""

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient


def main() -> None:
    """Execute the notebooks that the command line names, each in its folder."""
    for path in map(Path, sys.argv[1:]):
        notebook, started = nbformat.read(path, as_version=4), time.monotonic()
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}}).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day
        notebook.metadata["code"] = code_mark(notebook)
        nbformat.write(notebook, path)
        print(f"{path}: {time.monotonic() - started:.0f} s, {path.stat().st_size} bytes")


def code_mark(notebook: Any) -> str:
    """What tells the code of one version of a notebook from that of others."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
