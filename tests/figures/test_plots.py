import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from drawn import drawn_texts, legend
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from nldiff.errors import NldiffError
from nldiff.figures import plots as plotting
from nldiff.metrics.sdr import Signal
from nldiff.transforms.spectrogram import power_spectrogram

GRID = np.linspace(-0.5, 0.5, 101)
SAMPLES = 0.06 * np.random.default_rng(0).standard_normal(20000)


def lines(axes: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.get_lines()}


FAMILIES = ("SumTanh", "MLP", "CatmullRom", "monotone", "piecewise", "sixth family")
SIGNALS = {"clean": SAMPLES, "distorted (input SDR 3 dB)": np.clip(SAMPLES, -0.05, 0.05), "restored": SAMPLES}

PICTURES: dict[str, Callable[[], Figure]] = {
    "curve": lambda: plotting.plot_curve(GRID, np.tanh(5 * GRID), SAMPLES, np.clip(GRID, -0.1, 0.1)),
    "titled curve": lambda: plotting.plot_curve(GRID, GRID, SAMPLES, title="Hard clipping at an input SDR of 3 dB"),
    "curves": lambda: plotting.plot_curves(dict.fromkeys(FAMILIES, 0.1 * GRID), GRID, truth=GRID**2),
    "spectrograms": lambda: plotting.plot_spectrograms(SIGNALS, 16000),
    "one spectrogram": lambda: plotting.plot_spectrograms({"clean": SAMPLES}, 16000, fmax=5000),
    "logarithmic spectrograms": lambda: plotting.plot_spectrograms(SIGNALS, 16000, frequency="cqt"),
}


def test_curve_shows_what_it_was_given() -> None:
    estimate, truth = np.tanh(5 * GRID), np.clip(GRID, -0.1, 0.1)
    figure = plotting.plot_curve(GRID, torch.tensor(estimate, requires_grad=True), SAMPLES, truth, "Fuzz")
    curve, panel = figure.axes
    drawn = lines(curve)
    np.testing.assert_array_equal(drawn["estimate"], estimate)
    np.testing.assert_array_equal(drawn["truth"], truth)
    np.testing.assert_array_equal(curve.get_lines()[0].get_xdata(), GRID)
    assert legend(figure) == ["estimate", "truth", "identity"]
    assert curve.get_title() == "Fuzz"
    assert curve.get_ylabel() == "observed sample value (output)"
    assert panel.get_xlabel() == "restored sample value (input)"


@pytest.mark.parametrize("draw", [lambda band: plotting.plot_curve(GRID, GRID, SAMPLES, band=band),
                                  lambda band: plotting.plot_curves({"estimate": GRID}, GRID, band=band)])  # fmt: skip
def test_a_band_is_in_the_legend(draw: Callable[[tuple[np.ndarray, np.ndarray]], Figure]) -> None:
    figure = draw((GRID - 0.1, GRID + 0.2))
    assert legend(figure) == ["estimate", "band", "identity"]
    assert figure.axes[0].collections[0].get_label() == "band"


def test_curve_range_is_that_of_the_samples() -> None:
    samples = np.concatenate([np.linspace(-0.3, 0.1, 100_000), [7.0]])  # one outlier
    figure = plotting.plot_curve(GRID, GRID / 2, samples)
    curve, panel = figure.axes
    np.testing.assert_allclose(curve.get_xlim(), (-0.3, 0.3), rtol=1e-3)
    assert curve.get_xlim() == panel.get_xlim()
    heights = [patch.get_height() for patch in panel.patches]  # type: ignore[attr-defined]
    assert sum(heights) == pytest.approx(100_000, abs=20)
    assert sum(heights[: len(heights) // 2]) == pytest.approx(75_000, abs=20)
    assert legend(figure) == ["estimate", "identity"]


def test_output_range_holds_the_curve_where_samples_are() -> None:
    steep = 10 * GRID
    low, high = plotting.plot_curve(GRID, steep, np.linspace(-0.2, 0.2, 1000)).axes[0].get_ylim()
    assert high == -low
    assert 2.0 < high < 2.2  # 10 x 0.2, not the 10 x 0.5 of the whole grid
    assert plotting.plot_curve(GRID, steep, np.zeros(1000)).axes[0].get_xlim() == (-0.5, 0.5)


def test_curves_can_be_told_apart() -> None:
    curves = {f"family {n}": n * GRID for n in range(8)}
    figure = plotting.plot_curves(curves, GRID, truth=GRID**3)
    axes = figure.axes[0]
    drawn = lines(axes)
    for name, values in curves.items():
        np.testing.assert_array_equal(drawn[name], values)
    np.testing.assert_array_equal(drawn["truth"], GRID**3)
    assert legend(figure) == [*curves, "truth", "identity"]
    # In colour by the colour, in grey by line style or width.
    shown = axes.get_lines()
    for one, other in combinations(shown, 2):
        colours = np.array([to_rgb(one.get_color()), to_rgb(other.get_color())])
        assert np.abs(colours[0] - colours[1]).max() > 0.2
        looks = [(line._dash_pattern, line.get_linewidth()) for line in (one, other)]  # type: ignore[attr-defined]
        assert looks[0] != looks[1]
    with pytest.raises(NldiffError, match="9 curves in one picture: at most 8"):
        plotting.plot_curves({**curves, "one more": GRID}, GRID)


def test_spectrograms_share_one_scale() -> None:
    rate = 16000
    loud = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    quiet = 0.01 * np.sin(2 * np.pi * 3000 * np.arange(rate // 2) / rate)
    figure = plotting.plot_spectrograms({"loud": loud, "quiet": torch.tensor(quiet)}, rate)
    *panels, bar = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["loud", "quiet"]
    assert bar.get_ylabel() == "level (dB)"
    assert panels[-1].get_xlabel() == "time (s)"
    images = [axes.images[0] for axes in panels]
    assert {image.get_clim() for image in images} == {(-80.0, 0.0)}
    assert {axes.get_ylim() for axes in panels} == {(0.0, 8.0)}
    assert {axes.get_xlim() for axes in panels} == {(0.0, 1.0)}
    assert list(images[1].get_extent()) == [0.0, 0.5, 0.0, 8.0]
    for image, frequency, level in zip(images, (1000, 3000), (0, -40), strict=True):
        picture = np.asarray(image.get_array())
        middle = picture[:, picture.shape[1] // 2]
        assert middle.max() == pytest.approx(level, abs=0.5)
        assert middle.argmax() / (len(middle) - 1) * rate / 2 == pytest.approx(frequency, abs=20)
    power = power_spectrogram(loud, 1024, 256).T
    expected = np.maximum(10 * np.log10(power / power.max() + 1e-30), -100)
    np.testing.assert_allclose(np.maximum(np.asarray(images[0].get_array()), -100), expected, atol=1e-3)


def test_spectrograms_up_to_a_frequency_and_of_long_signals() -> None:
    figure = plotting.plot_spectrograms({"a": np.tile(SAMPLES, 100)}, 16000, fmax=5000)
    assert figure.axes[0].get_ylim() == (0.0, 5.0)
    assert np.asarray(figure.axes[0].images[0].get_array()).shape[1] <= 2001


@pytest.mark.parametrize("rate", [16000, 44100])
def test_spectrograms_with_a_logarithmic_frequency_axis(rate: int) -> None:
    time = np.arange(rate) / rate
    signals: dict[str, Signal] = {
        "low": np.sin(2 * np.pi * 110 * time),
        "high": torch.tensor(0.01 * np.sin(2 * np.pi * 3520 * time)),
    }
    figure = plotting.plot_spectrograms(signals, rate, frequency="cqt", fmax=5000)
    *panels, _ = figure.axes
    for axes, frequency, level in zip(panels, (110, 3520), (0, -40), strict=True):
        picture = np.asarray(axes.images[0].get_array())
        middle = picture[:, picture.shape[1] // 2]
        assert middle.max() == pytest.approx(level, abs=0.1)
        # The picture spans bands of 1/24 octave; the axis counts octaves above 1 kHz.
        _, _, bottom, top = axes.images[0].get_extent()
        assert (top - bottom) * 24 == pytest.approx(len(middle))
        octave = bottom + (middle.argmax() + 0.5) / 24
        assert octave == pytest.approx(np.log2(frequency / 1000), abs=1e-6)
    figure.draw_without_rendering()
    ticks = {
        label.get_text(): tick for label, tick in zip(panels[0].get_yticklabels(), panels[0].get_yticks(), strict=True)
    }
    assert ticks["0.1"] == pytest.approx(np.log2(0.1)) and ticks["5"] == pytest.approx(np.log2(5))
    assert panels[0].get_ylim() == pytest.approx((np.log2(0.055) - 1 / 48, np.log2(5)))


def test_unknown_frequency_axis() -> None:
    with pytest.raises(NldiffError, match="frequency=mel: linear or cqt expected"):
        plotting.plot_spectrograms(SIGNALS, 16000, frequency="mel")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_overlaps_or_is_cut_off(name: str) -> None:
    figure = PICTURES[name]()
    FigureCanvasAgg(figure).draw()
    boxes = {text: text.get_window_extent() for text in drawn_texts(figure)}
    assert len(boxes) > 10
    for text, box in boxes.items():
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)


@pytest.mark.parametrize("name", [name for name in PICTURES if "curve" in name])
def test_legend_is_outside_of_the_axes(name: str) -> None:
    figure = PICTURES[name]()
    FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_saved_pictures(tmp_path: Path) -> None:
    figure = plotting.plot_curve(GRID, GRID, SAMPLES)
    width, height = figure.get_size_inches()
    path = tmp_path / "new" / "curve of ü.png"
    plotting.save_figure(figure, path)
    picture = imread(path)
    assert picture.shape[:2] == (round(150 * height), round(150 * width))
    assert picture[..., :3].min() < 0.5 < picture[..., :3].max()  # something is drawn on white
    plotting.save_figure(figure, path, dpi=50)
    assert imread(path).shape[:2] == (round(50 * height), round(50 * width))
    plotting.save_figure(figure, tmp_path / "new" / "curve.svg")
    assert ElementTree.parse(tmp_path / "new" / "curve.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["curve of ü.png", "curve.svg"]


def test_pictures_that_cannot_be_saved(tmp_path: Path) -> None:
    figure = plotting.plot_curve(GRID, GRID, SAMPLES)
    with pytest.raises(NldiffError, match=r"curve\.bmp cannot be written: pictures are \.png or \.svg$"):
        plotting.save_figure(figure, tmp_path / "curve.bmp")
    (tmp_path / "file").touch()
    with pytest.raises(NldiffError, match=r"curve\.png cannot be written in folder"):
        plotting.save_figure(figure, tmp_path / "file" / "curve.png")


def test_pyplot_is_never_loaded() -> None:
    """No global state; nnAudio, which takes long to import, waits until it is needed."""
    code = (
        "import sys; import nldiff.networks; from nldiff.figures import plots; "
        "assert not {'matplotlib.pyplot', 'nnAudio'} & set(sys.modules); "
        "plots.plot_curve([0.0, 1.0], [0.0, 1.0], [0.5]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ctrl_c_waits_for_a_picture(tmp_path: Path) -> None:
    class Interrupting(Rectangle):
        def draw(self, renderer: RendererBase) -> None:
            signal.raise_signal(signal.SIGINT)
            super().draw(renderer)

    figure = Figure()
    figure.add_artist(Interrupting((0, 0), 1, 1))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            plotting.draw(figure, tmp_path / "picture.png")
    finally:
        signal.signal(signal.SIGINT, before)
    assert imread(tmp_path / "picture.png").shape == (480, 640, 4)
