"""`nldiff report`: its arguments; the page has tests of its own, see `tests/report`."""

from pathlib import Path

import pytest

from nldiff.cli import main


def test_the_report_command_calls_the_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Path, Path | None, float]] = []

    def build(run_dir: Path, out: Path | None, lufs: float) -> Path:
        calls.append((run_dir, out, lufs))
        return run_dir / "index.html"

    monkeypatch.setattr("nldiff.cli.report.build_report", build)
    assert main(["report", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path), "--out", "page", "--lufs", "-19"]) == 0
    assert calls == [(tmp_path, None, -23.0), (tmp_path, Path("page"), -19.0)]
    assert capsys.readouterr().out == f"{tmp_path / 'index.html'}\n" * 2
