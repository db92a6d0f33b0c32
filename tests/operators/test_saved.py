import errno
import json
import os
from pathlib import Path

import pytest
import torch
from laplace import laplace

from nldiff.errors import NldiffError
from nldiff.operators import AtRate, Chain, Distortion, Identity, Operator, Rescaled, TabulatedCurve, make_waveshaper
from nldiff.operators.saved import load_operator, save_operator

TABLE = TabulatedCurve(torch.tensor([-1.0, 0.1, 1.0]), torch.tensor([-0.3, 0.1, 0.5]))


@pytest.mark.parametrize(
    "operator",
    [
        Identity(),
        Distortion("hard_clip", {"threshold": 0.1234567890123}),
        Distortion("half_wave", {"mix": 0.3}),
        Chain([Rescaled(TABLE, 1.0, 0.7), Distortion("highpass", {"hz": 19.99, "rate": 16000})]),
        AtRate(Distortion("hard_clip", {"threshold": 0.3}), 8000, 11025),
        Chain([Distortion("overdrive"), Chain([Identity(), Distortion("gain")], 0.5)], 0.25),
    ],
)
def test_comes_back_as_it_was(operator: Operator, tmp_path: Path) -> None:
    x = laplace(0, length=200)[None]
    save_operator(operator, tmp_path / "a.json")
    assert torch.equal(load_operator(tmp_path / "a.json")(x), operator(x))


def test_the_file_is_readable(tmp_path: Path) -> None:
    save_operator(Distortion("peak", {"hz": 500, "rate": 8000}), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "format": "nldiff operator",
        "version": 1,
        "operator": {
            "type": "distortion",
            "name": "peak",
            "parameters": {"hz": 500.0, "gain_db": 6.0, "q": 0.5**0.5, "rate": 8000.0},
        },
    }


def test_learnable_curves_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NldiffError, match="CatmullRom are not saved"):
        save_operator(make_waveshaper("ccr", 1), tmp_path / "a.json")
    (tmp_path / "file").touch()
    with pytest.raises(NldiffError, match="cannot be written"):
        save_operator(Identity(), tmp_path / "file" / "a.json")


def test_what_cannot_be_written_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_operator(Identity(), tmp_path / "a.json")

    def full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text.encode(encoding)[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NldiffError, match="No space left"):
        save_operator(Distortion("gain"), tmp_path / "a.json")
    assert isinstance(load_operator(tmp_path / "a.json"), Identity)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


HEAD = '{"format": "nldiff operator", "version": 1, "operator": '
CLIP = HEAD + '{"type": "distortion", "name": "hard_clip", "parameters": %s}}'
LEVEL = '{"type": "rescaled", "input_level": 1, "output_level": 1, "operator": '
ROWS = HEAD + '{"type": "table", "inputs": [0, 1], "outputs": [0, %s]}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100000, "is nested too deep"),
        (HEAD + LEVEL * 900 + '{"type": "identity"}' + "}" * 901, "is nested too deep"),
        (CLIP % "[]", "is damaged"),
        (CLIP % "null", "is damaged"),
        (CLIP % f'{{"threshold": {10**400}}}', "is damaged"),
        (ROWS % 10**400, "is damaged"),
        (ROWS % "NaN", "NaN, infinite"),
        (ROWS % "Infinity", "NaN, infinite"),
        ((HEAD + LEVEL + '{"type": "identity"}}}').replace('"input_level": 1', f'"input_level": {10**400}'), "damaged"),
        ("{", "is no JSON file"),
        ("[]", "is no operator of nldiff"),
        ('{"format": "nldiff operator", "version": 2}', "version 2 of the format; this program reads 1"),
        ('{"format": "nldiff operator", "version": 1}', "is damaged: KeyError"),
        (
            '{"format": "nldiff operator", "version": 1, "operator": {"type": "magic"}}',
            "unknown type of operator 'magic'",
        ),
        (
            '{"format": "nldiff operator", "version": 1, "operator": '
            '{"type": "distortion", "name": "hard_clip", "parameters": {"threshold": -1}}}',
            "threshold=-1 is out of range",
        ),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(NldiffError, match=message) as caught:
        load_operator(tmp_path / "a.json")
    assert str(caught.value).startswith(str(tmp_path / "a.json"))
    with pytest.raises(NldiffError, match="does not exist"):
        load_operator(tmp_path / "b.json")
    os.mkfifo(tmp_path / "c.json")
    with pytest.raises(NldiffError, match="is a pipe"):
        load_operator(tmp_path / "c.json")
