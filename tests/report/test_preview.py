"""The page of one restoration."""

import base64
import io
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from browser import barriers, begin, complaints, requests, screenshot, set_width
from helpers import clipped, plucked

from nldiff.errors import NldiffError
from nldiff.figures.waveforms import plot_waveforms
from nldiff.metrics.loudness import loudness
from nldiff.report import preview as module
from nldiff.report.pages import check_pages
from nldiff.report.preview import build_preview

RATE = 16000
NAME = "a <b>\"take\"</b> & 'more' ü.wav"
REPORT: dict[str, Any] = {
    "input": NAME, "frames": 3 * RATE, "known": None, "method": "blind", "prior": "guitar", "seed": 3,
    "explained_db": 31.26, "restored_band_hz": 8000.0, "warnings": ["be <careful>"],
    "verdict": {
        "finding": "distorted", "hypothesis": "clipped", "unchanged": False,
        "expected_sdr_db": {"low": 9.4, "middle": 18.4, "high": 27.4},
        "judgement": {"confidence": 0.93, "predictability_gain": 0.2, "spread_gain": -0.1, "plateau": 0.125},
    },
}  # fmt: skip
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def write(folder: Path, x: np.ndarray, y: np.ndarray, **changes: Any) -> str:
    """A page of a restored signal and a recording; returns its text."""
    sf.write(folder / "y.wav", y.T, RATE, subtype="FLOAT")
    sf.write(folder / "x.wav", x.T, RATE, subtype="FLOAT")
    (folder / "curve.png").write_bytes(PIXEL)
    build_preview(folder / "y.wav", folder / "x.wav", folder / "curve.png", REPORT | changes, folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


def tracks(text: str) -> list[np.ndarray | None]:
    """Samples [channels, time] of the players."""
    found = []
    for sources in re.findall(r"<audio [^>]*data-sources='([^']*)'", text):
        (source,) = json.loads(unescape(sources))
        data = None if source is None else base64.b64decode(source.removeprefix("data:audio/flac;base64,"))
        found.append(None if data is None else sf.read(io.BytesIO(data), always_2d=True)[0].T)
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    x = np.stack([plucked(3.0, RATE, seed) for seed in (0, 1)])
    return write(tmp_path_factory.mktemp("preview"), 0.5 * x, x.clip(-0.15, 0.15))


def test_the_players_have_one_loudness_and_the_difference_is_what_changed(text: str) -> None:
    original, restored, difference = tracks(text)
    for track in (original, restored, difference):
        assert track is not None
        assert track.shape == (2, 3 * RATE)
        assert loudness(track, RATE) == pytest.approx(-23, abs=0.1)
    x = np.stack([plucked(3.0, RATE, seed) for seed in (0, 1)])
    y = x.clip(-0.15, 0.15)
    change = y - x * np.sum(x * y) / np.sum(x * x)
    assert np.corrcoef(change.ravel(), difference.ravel())[0, 1] > 0.999  # type: ignore[union-attr]
    raised = 20 * np.log10(np.std(difference) / np.std(change))  # type: ignore[arg-type]
    assert f"raised by {raised:.0f} dB" in text


def test_the_page_is_alone_and_everything_is_escaped(text: str) -> None:
    outside = re.findall(r"(?:src|href)=[\"']?(?!data:|#)[^\"'> ]+", text.split("<script>")[0])
    assert outside == []
    assert "<b>" not in text
    assert "be &lt;careful&gt;" in text
    for title in ("Transfer curve", "Waveforms", "Spectrograms"):
        assert re.search(rf'<img src="data:image/png;base64,[^"]+" alt="{title}: ', text)


def test_verdict_and_reasons_are_there(text: str) -> None:
    for words in ("distorted", "93 %", "+0.200 nats", "-0.100 nats", "12.5 %", "31.3 dB", "8 kHz", "blind, guitar, 3"):
        assert words in unescape(text)
    assert "18 dB; 9 to 27 dB in nine of ten cases" in text


def test_of_a_recording_that_comes_back_unchanged_nothing_is_explained_or_restored(tmp_path: Path) -> None:
    verdict = REPORT["verdict"] | {"finding": "unexplained", "unchanged": True, "expected_sdr_db": None}
    text = write(tmp_path, clipped(1.0, RATE), clipped(1.0, RATE), verdict=verdict)
    assert re.search(r"which is not believed</th><td>clipped<", text)
    for words in ("explains the recording to", "Restored up to", "Expected SI-SDR"):
        assert words not in text
    untried = write(tmp_path, clipped(1.0, RATE), clipped(1.0, RATE), verdict=verdict | {"judgement": None})
    assert re.search(r"Signs of a distortion</th><td>none<", untried)


def test_what_was_told_what_is_not_judged_and_what_is_infinite(tmp_path: Path) -> None:
    y = clipped(1.0, RATE)
    told = write(tmp_path, y, y, verdict=None, known="half_wave", explained_db=None)
    assert "told: half_wave" in told
    original, restored, difference = tracks(told)
    assert difference is None
    assert "nothing: both are the same" in told
    np.testing.assert_array_equal(original, restored)
    assert "not judged (method observed)" in write(tmp_path, y, y, verdict=None, method="observed")


def test_a_long_recording_is_shown_in_part_and_a_short_one_has_no_loudness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    y = clipped(0.2, RATE)
    short = write(tmp_path, plucked(0.2, RATE)[None], y, frames=y.shape[1])
    assert "peaks at half of full scale" in short
    assert np.max(np.abs(tracks(short)[0])) == pytest.approx(0.5, abs=1e-3)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "LONGEST_SECONDS", 1.0)
    text = write(tmp_path, clipped(3.0, RATE, seed=1), clipped(3.0, RATE))
    assert "the first 1 s of 3 s" in text
    assert tracks(text)[0].shape == (1, RATE)  # type: ignore[union-attr]


def test_jinja_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(NldiffError, match=r"nldiff\[report\]"):
        check_pages()


def test_waveforms_show_every_peak() -> None:
    x = np.zeros(100_000)
    x[[33_333, 77_777]] = 0.7, -0.4
    figure = plot_waveforms({"a": x, "b": -x}, 10_000)
    extremes = [np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1] for axes in figure.axes]
    assert [(v.min(), v.max()) for v in extremes] == [(-0.4, 0.7), (-0.7, 0.4)]
    assert figure.axes[0].get_xlim() == (0, 10)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(chromium: Any, tmp_path: Path, width: int) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    x = np.stack([plucked(3.0, RATE, seed) for seed in (0, 1)])
    write(tmp_path, x, x.clip(-0.15, 0.15))
    begin(chromium)
    set_width(chromium, width)
    chromium.get((tmp_path / "page.html").as_uri())
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    buttons = chromium.find_elements("css selector", ".player button")
    assert [button.is_enabled() for button in buttons] == [True, True, True]

    def time(player: int) -> float:
        script = "return document.querySelectorAll('audio')[arguments[0]].currentTime"
        return float(chromium.execute_script(script, player))

    buttons[0].send_keys(Keys.ENTER)
    WebDriverWait(chromium, 30).until(lambda _: time(0) > 0.3)
    buttons[0].send_keys(Keys.ARROW_RIGHT)
    assert chromium.switch_to.active_element == buttons[1]
    buttons[1].send_keys(Keys.ENTER)
    WebDriverWait(chromium, 30).until(lambda _: time(1) > 0.4)
    pressed = [button.get_attribute("aria-pressed") for button in buttons]
    assert pressed == ["false", "true", "false"]
    assert complaints(chromium) == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests(chromium))
    screenshot(chromium, f"preview-{width}")
    assert barriers(chromium) == []
