"""The documentation says what the program does: examples of docstrings, names of commands and of public objects."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

import nldiff
from nldiff.cli import COMMANDS

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "nldiff").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_docstrings(name: str) -> None:
    failed, tried = doctest.testmod(import_module(name))
    assert tried > 0
    assert failed == 0


def test_there_are_examples() -> None:
    assert {"nldiff.curves.curve", "nldiff.operators.recipes"} <= set(EXAMPLES)


def test_every_command_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `nldiff ([a-z-]+)", page, re.MULTILINE)) == set(COMMANDS)


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "library.md").read_text(encoding="utf-8")
    assert set(re.findall(r'heading: "nldiff\.(\w+)"', page)) == set(nldiff.__all__) - {"__version__"}
