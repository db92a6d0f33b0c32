"""Regular files and their identity."""

import os
from pathlib import Path

import pytest

from nldiff.errors import NldiffError
from nldiff.reading import regular_file


def test_a_file_keeps_its_identity_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    first = regular_file(path)
    assert regular_file(str(path)) == first
    os.utime(path, ns=(0, first[3] + 1))
    assert regular_file(path) != first
    os.utime(path, ns=(0, first[3]))
    assert regular_file(path) == first
    path.write_text("four")
    os.utime(path, ns=(0, first[3]))
    assert regular_file(path) != first  # the size
    (tmp_path / "b").write_text("one")
    os.utime(tmp_path / "b", ns=(0, first[3]))
    (tmp_path / "b").replace(path)
    assert regular_file(path) != first  # the number
    assert regular_file(path)[0] == path.stat().st_dev


def test_a_link_is_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert regular_file(tmp_path / "link") == regular_file(tmp_path / "a")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(NldiffError, match=r"loop cannot be read: Too many levels of symbolic links$"):
        regular_file(tmp_path / "loop")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        (tmp_path, "is a folder: a file is needed"),
        (tmp_path / "pipe", "is a pipe, device or socket: a file is needed"),
        (Path("/dev/null"), "is a pipe, device or socket: a file is needed"),
        (tmp_path / "nothing", "does not exist"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (Path("nul\0l"), "cannot be read: embedded null byte"),
    ]:
        with pytest.raises(NldiffError) as caught:
            regular_file(path)
        assert str(caught.value) == f"{path} {reason}"
