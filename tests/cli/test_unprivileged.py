"""A user who may write to the output folder only, with an ASCII locale and without a terminal."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, names, program, results, write
from experiments import command, quick
from helpers import TINY_RATE, save_tiny_prior

# Without these, an administrator is stopped by file modes like any other user.
_PLAIN = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
_PROGRAM = """
import json, sys
from nldiff.cli import main
for line in json.loads(sys.stdin.read()):
    if main(line):
        sys.exit(f"failed: {line}")
"""


@pytest.mark.skipif(os.name != "posix", reason="file modes")
@pytest.mark.skipif(bool(_PLAIN) and shutil.which(_PLAIN[0]) is None, reason="an administrator needs setpriv for it")
def test_nothing_is_written_outside_the_output_folder(tmp_path: Path) -> None:
    place, home, out, caches = (tmp_path / name for name in ("place", "home", "out", "caches"))
    for folder in (place, home, out, caches, tmp_path / "clips"):
        folder.mkdir()
    prior = save_tiny_prior(tmp_path / "tiny.safetensors")
    os.rename(write(place / "take.wav", 0.4), os.fsencode(place) + b"/gr\xc3\xbc\xff.wav")
    write(tmp_path / "clips" / "clip.wav", 1.0)
    take, stem = "gr\udcc3\udcbc\udcff.wav", "gr\udcc3\udcbc\udcff"  # as ASCII names bytes that it does not know
    experiment = quick(tmp_path / "clips", prior, "save_audio=true", f"rate={TINY_RATE}", "distortions=[half_wave]")
    lines = [
        ["diagnose", take, "--prior", str(prior)],
        ["restore", take, "--prior", str(prior), "-o", str(out / "restored"), "--preview"],
        ["apply", str(out / "restored" / f"{stem}.curve.csv"), take, "-o", str(out / "distorted")],
        ["export", str(out / "restored" / f"{stem}.curve.csv"), "--to", "c", "-o", str(out / "curve.h")],
        command(experiment, out / "run", tmp_path),
        ["report", str(out / "run")],
    ]
    for folder in (place, home):
        folder.chmod(0o555)
    done = subprocess.run(
        [*_PLAIN, sys.executable, "-c", _PROGRAM],
        input=json.dumps(lines), capture_output=True, text=True, timeout=300, cwd=place, start_new_session=True,
        env={
            "HOME": str(home), "TMPDIR": str(caches), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert names(home) == set()
    assert [os.fsencode(path.name) for path in place.iterdir()] == [b"gr\xc3\xbc\xff.wav"]
    assert all(name.startswith("nldiff-") for name in names(caches))
    assert {os.fsencode(name) for name in names(out / "restored")} == {
        name.encode().replace(b"take", b"gr\xc3\xbc\xff") for name in results("take") | {"take.preview.html"}
    }
    assert r"gr\udcc3\udcbc\udcff.wav" in (out / "restored" / os.fsdecode(b"gr\xc3\xbc\xff.preview.html")).read_text()
    assert (out / "run" / "report" / "index.html").is_file()


def test_no_place_for_temporary_files_is_one_line(tmp_path: Path) -> None:
    refuse = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nonexistent']; from nldiff.cli import main"
    done = program("-c", f"{refuse}; raise SystemExit(main(['restore', '{write(tmp_path / 'take.wav')}']))")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "No usable temporary directory found" in done.stderr
    assert done.stderr.count("\n") == 1
