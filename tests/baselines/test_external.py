"""The adapters of other packages, with stand-ins for these that keep what they are given."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nldiff.baselines import external
from nldiff.errors import NldiffError

CPU = torch.device("cpu")
VOICEFIXER = (
    ".cache/voicefixer/analysis_module/checkpoints/vf.ckpt",
    ".cache/voicefixer/synthesis_module/44100/model.ckpt-1490000_trimed.pt",
)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, folder: Path | None = None, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=folder is not None)
    if folder:
        module.__path__ = [str(folder)]
        module.__spec__.submodule_search_locations = [str(folder)]
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def speech(channels: int, frames: int = 50000) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (channels, frames)).astype(np.float32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    external._voicefixer_model.cache_clear()
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


# ------------------------------------------------------------ VoiceFixer


class FakeVoiceFixer:
    """Its answer is `change` of the input, [1, time] as that of the package; it keeps what it was given."""

    made = 0

    def __init__(self, change: Callable[[NDArray[Any]], NDArray[Any]] = np.negative) -> None:
        self.change = change
        self.calls: list[tuple[NDArray[Any], bool, int]] = []

    def __call__(self) -> "FakeVoiceFixer":
        self.made += 1
        return self

    def restore_inmem(self, wav_10k: NDArray[Any], cuda: bool = True, mode: int = 2) -> NDArray[Any]:
        print("Warning: Exceed energy limit")
        print("100%", file=sys.stderr)
        self.calls.append((wav_10k, cuda, mode))
        return self.change(wav_10k)[None]


def voicefixer(monkeypatch: pytest.MonkeyPatch, home: Path, fake: FakeVoiceFixer) -> None:
    stand_in(monkeypatch, "voicefixer", VoiceFixer=fake)
    for path in VOICEFIXER:
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).touch()


def test_voicefixer_gets_channels_one_by_one(
    monkeypatch: pytest.MonkeyPatch, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeVoiceFixer()
    voicefixer(monkeypatch, home, fake)
    y = speech(2)
    x = external.voicefixer(CPU)(y)
    assert x.dtype == np.float32
    assert np.array_equal(x, -y)
    assert [(wav.shape, str(wav.dtype), cuda, mode) for wav, cuda, mode in fake.calls] == [
        ((50000,), "float32", False, 0)
    ] * 2
    assert np.array_equal(np.stack([wav for wav, _, _ in fake.calls]), y)
    assert capsys.readouterr() == ("", "")
    external.voicefixer(torch.device("cuda"))(y[:1])
    assert (fake.calls[-1][1], fake.made) == (True, 1)


def test_silence_is_not_given_to_a_model_of_speech(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    fake = FakeVoiceFixer()
    voicefixer(monkeypatch, home, fake)
    y = speech(2)
    y[0] = 0
    x = external.voicefixer(CPU)(y)
    assert np.array_equal(x, -y)
    assert len(fake.calls) == 1


@pytest.mark.parametrize("frames", [50000 - 441, 50000 + 441])
def test_a_frame_more_or_less_is_cut_or_filled(monkeypatch: pytest.MonkeyPatch, home: Path, frames: int) -> None:
    fake = FakeVoiceFixer(lambda y: np.resize(y, frames))
    voicefixer(monkeypatch, home, fake)
    y = speech(1)
    x = external.voicefixer(CPU)(y)
    kept = min(frames, 50000)
    assert x.shape == y.shape
    assert np.array_equal(x[:, :kept], y[:, :kept])
    assert not x[:, kept:].any()


def _broken(y: NDArray[Any]) -> NDArray[Any]:
    raise RuntimeError("no memory\nTraceback")


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda y: y[:0], "0 samples restored of 50000"), (_broken, "RuntimeError in another package: no memory")],
)
def test_what_goes_wrong_in_another_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, home: Path, change: Callable[[NDArray[Any]], NDArray[Any]], said: str
) -> None:
    voicefixer(monkeypatch, home, FakeVoiceFixer(change))
    with pytest.raises(NldiffError) as caught:
        external.voicefixer(CPU)(speech(1))
    assert str(caught.value) == said


@pytest.mark.parametrize("missing", VOICEFIXER)
def test_voicefixer_without_weights_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch, home: Path, missing: str
) -> None:
    fake = FakeVoiceFixer()
    voicefixer(monkeypatch, home, fake)
    (home / missing).unlink()
    with pytest.raises(NldiffError, match=r"needs its weights: download https://zenodo\.org/\S+ to ") as caught:
        external.voicefixer(CPU)
    assert str(caught.value).endswith(f"/{Path(missing).name} to {home / missing}")
    assert fake.made == 0


def test_voicefixer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "voicefixer", None)
    with pytest.raises(NldiffError, match=r'pip install "nldiff\[voicefixer\]"$'):
        external.voicefixer(CPU)


# ------------------------------------------------------------ Resemble Enhance


def resemble(monkeypatch: pytest.MonkeyPatch, folder: Path, enhance: Any) -> Path:
    """Install a stand-in with weights; returns the folder of these."""
    stand_in(monkeypatch, "resemble_enhance", folder)
    stand_in(monkeypatch, "resemble_enhance.enhancer", folder / "enhancer")
    stand_in(monkeypatch, "resemble_enhance.enhancer.inference", enhance=enhance)
    weights = folder / "model_repo" / "enhancer_stage2"
    (weights / "ds" / "G" / "default").mkdir(parents=True)
    (weights / "ds" / "G" / "default" / "mp_rank_00_model_states.pt").touch()
    return weights


def test_resemble_enhance_gets_channels_one_by_one_and_its_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def enhance(
        dwav: torch.Tensor, sr: int, device: str, nfe: int = 32, solver: str = "", lambd: float = 0, tau: float = 0,
        run_dir: Path | None = None,
    ) -> tuple[torch.Tensor, int]:  # fmt: skip
        given = {"sr": sr, "device": device, "nfe": nfe, "solver": solver, "lambd": lambd, "tau": tau, "run": run_dir}
        calls.append((dwav, given))
        return dwav + torch.randn(len(dwav)), 44100

    weights = resemble(monkeypatch, tmp_path, enhance)
    y = speech(2)
    first = external.resemble_enhance(CPU, 5)(y)
    expected = {"sr": 44100, "device": "cpu", "nfe": 64, "solver": "midpoint", "lambd": 1.0, "tau": 0.5, "run": weights}
    assert [given for _, given in calls] == [expected] * 2
    assert np.array_equal(np.stack([dwav.numpy() for dwav, _ in calls]), y)
    assert first == pytest.approx(y + torch.randn(50000, generator=torch.Generator().manual_seed(5)).numpy())
    assert np.array_equal(first, external.resemble_enhance(CPU, 5)(y))
    assert not np.array_equal(first, external.resemble_enhance(CPU, 6)(y))


def test_a_rate_that_resemble_enhance_should_not_return(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resemble(monkeypatch, tmp_path, lambda dwav, *_, **options: (dwav, 48000))
    with pytest.raises(NldiffError, match="resemble-enhance returned 48000 Hz"):
        external.resemble_enhance(CPU, 0)(speech(1))


def test_resemble_enhance_without_weights_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = resemble(monkeypatch, tmp_path, lambda *_, **options: pytest.fail("used without weights"))
    (weights / "ds" / "G" / "default" / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(NldiffError) as caught:
        external.resemble_enhance(CPU, 0)
    repository = "https://huggingface.co/ResembleAI/resemble-enhance"
    assert str(caught.value).endswith(f"git lfs install && git clone {repository} {tmp_path / 'model_repo'}")


@pytest.mark.parametrize("error", [ImportError("no deepspeed"), OSError("no libtorch_cuda.so")])
def test_resemble_enhance_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    resemble(monkeypatch, tmp_path, None)

    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(NldiffError, match=rf"\({error}\): .*pip install --no-deps resemble-enhance==0\.0\.1"):
        external.resemble_enhance(CPU, 0)


def test_resemble_enhance_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NldiffError, match=r"not installed: .*pip install --no-deps resemble-enhance==0\.0\.1 &&"):
        external.resemble_enhance(CPU, 0)
