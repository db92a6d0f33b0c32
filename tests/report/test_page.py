import csv
import html
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile as sf
from browser import barriers, begin, complaints, requests, screenshot, set_colours, set_width
from helpers import plucked
from run_folders import ERROR, SETTINGS, write_rows, write_run

from nldiff.errors import NldiffError
from nldiff.figures.run_folder import read_cells
from nldiff.metrics.loudness import loudness
from nldiff.report import build_report

NAME = "a <b>\"clip\"</b> & 'more' ü"
SECONDS = 3.0
RATE = 8000
LEVELS = (SETTINGS[0], *SETTINGS[2:])  # 1 dB and 7 dB, and a task without levels
ROWS = ["distorted", "target", "blind-ccr", "blind-mlp", "nldiff, told the distortion"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The second clip has a peak that -23 LUFS would bring far over full scale.
    peaky = 0.01 * plucked(SECONDS, RATE, 1).astype(float)
    peaky[RATE] = 0.5
    clips = {NAME: plucked(SECONDS, RATE).astype(float), "b": peaky}
    return write_run(tmp_path_factory.mktemp("run") / "speech & <music>", clips, RATE, settings=LEVELS)


@pytest.fixture(scope="module")
def index(run: Path) -> Path:
    (run / "figures").mkdir()
    (run / "figures" / "boxes-hard_clip.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    return build_report(run)


class Page(HTMLParser):
    """Elements of a page in order: tag and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def lists(self, tag: str, attribute: str) -> list[list[str | None]]:
        return [json.loads(at[attribute] or "") for name, at in self.elements if name == tag and attribute in at]


def test_every_address_is_a_file_of_the_folder(index: Path) -> None:
    page = Page(index.read_text(encoding="utf-8"))
    addresses = [at[key] for _, at in page.elements for key in ("src", "href") if key in at]
    addresses += [
        source for tag in ("audio", "img") for sources in page.lists(tag, "data-sources") for source in sources
    ]
    files = {address for address in addresses if address and not address.startswith(("#", "data:,"))}
    # 2 clips x 3 settings x (3 methods, input, target), one failed; curves and spectrograms; figure, style and script
    assert len(files) == 2 * 3 * 5 - 1 + 2 * 3 * 2 + 3
    for address in files:
        assert (index.parent / unquote(address)).is_file(), address
    assert ["http" in (index.parent / name).read_text() for name in ("page.js", "page.css")] == [False, False]


def test_everything_is_escaped(index: Path, run: Path) -> None:
    text = index.read_text(encoding="utf-8")
    page = Page(text)
    assert not [tag for tag, _ in page.elements if tag in ("b", "finite", "music")]
    for raw in (NAME, run.name):
        assert raw not in text
        assert str(html.escape(raw, quote=False)) in text.replace("&#34;", '"').replace("&#39;", "'")
    notes = page.lists("small", "data-texts")
    assert notes[3] == ["", ""]
    assert notes[8][0] == f"failed: {ERROR}"  # blind-mlp of the second clip


def test_scores_are_those_of_the_table(index: Path, run: Path) -> None:
    shown = Page(index.read_text(encoding="utf-8")).lists("td", "data-texts")
    cells = {(cell.distortion, cell.method, cell.clip): cell for cell in read_cells(run)}
    expected = []
    for task in ("hard_clip", "half_wave"):
        distortions = [setting[1] for setting in LEVELS if setting[0] == task]
        for clip in (NAME, "b"):
            for metric in ("si_sdr", "lsd", "rr_mse"):
                for method in ("observed", "clean", "blind-ccr", "blind-mlp", "informed"):
                    found = [cells.get((distortion, method, clip)) for distortion in distortions]
                    values = [cell.scores.get(metric) if cell else None for cell in found]
                    expected.append(["–" if v is None else f"{v:.2f}".replace("-", "−") for v in values])
    assert shown == expected
    assert ["–", "–"] in shown


def test_copies_are_levelled_and_those_that_cannot_be_say_so(index: Path) -> None:
    page = Page(index.read_text(encoding="utf-8"))
    notes = page.lists("small", "data-texts")
    seen = set()
    for sources, texts in zip(page.lists("audio", "data-sources"), notes, strict=True):
        for source, note in zip(sources, texts, strict=True):
            if source is None:
                continue
            samples, rate = sf.read(index.parent / unquote(source))
            info = sf.info(index.parent / unquote(source))
            assert (info.format, info.subtype, rate, len(samples)) == ("FLAC", "PCM_16", RATE, SECONDS * RATE)
            level, peak = loudness(samples, rate), np.abs(samples).max()
            if note:
                assert level < -23.1 and peak > 0.9999
                assert note == f"−{-level:.1f} LUFS"
            else:
                assert level == pytest.approx(-23, abs=0.1)
            seen.add(bool(note))
    assert seen == {True, False}
    assert "levelled to −23 LUFS" in " ".join(index.read_text(encoding="utf-8").split())


def test_a_middle_setting_comes_first_and_one_setting_needs_no_selector(index: Path) -> None:
    page = Page(index.read_text(encoding="utf-8"))
    options = [at for tag, at in page.elements if tag == "option"]
    assert [("selected" in at, at["value"]) for at in options] == [(False, "0"), (True, "1")]
    text = " ".join(index.read_text(encoding="utf-8").split())
    assert text.count("<select") == 1
    assert "<label>Input SDR <select" in text


def rewrite(source: Path, target: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
    """A run with changed rows and nothing to play."""
    with (source / "results.csv").open(newline="") as text:
        rows = [change(row) for row in csv.DictReader(text)]
    write_rows(target / "results.csv", rows)
    (target / "audio").mkdir()
    return target


def test_distortions_of_one_level_are_told_apart(run: Path, tmp_path: Path) -> None:
    same = rewrite(run, tmp_path / "same", lambda row: row | {"level": "5" if row["task"] == "hard_clip" else ""})
    text = " ".join(build_report(same).read_text(encoding="utf-8").split())
    assert "<label>Distortion <select" in text
    assert ["hard_clip:sdr=" in part for part in text.split("<option")] == [False, True, True]


def test_every_seed_is_an_example(run: Path, tmp_path: Path) -> None:
    seeds = rewrite(run, tmp_path / "seeds", lambda row: row | {"seed": "1" if row["clip"] == "b" else "0"})
    text = build_report(seeds).read_text(encoding="utf-8")
    assert "<span>b, seed 1</span>" in text
    assert text.count("seed 0</span>") == 2


def test_a_smoke_run_says_so(run: Path, tmp_path: Path) -> None:
    copy = rewrite(run, tmp_path / "run", lambda row: row)
    for content, said in (({"config": {"smoke_run": True}}, True), ({"config": {}}, False), ([], False)):
        (copy / "settings.yaml").write_text(json.dumps(content))
        assert ("smoke run" in build_report(copy).read_text(encoding="utf-8")) == said


def test_an_earlier_page_is_replaced_and_nothing_else(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    small = rewrite(run, tmp_path / "small", lambda row: row | {"task": "hard_clip", "distortion": "half_wave"})
    assert build_report(small, out) == out / "index.html"
    (out / "stale.flac").touch()
    build_report(small, out, lufs=-30)
    assert not (out / "stale.flac").exists()
    assert "levelled to −30 LUFS" in " ".join((out / "index.html").read_text(encoding="utf-8").split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "small"]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("my homepage")
    with pytest.raises(NldiffError, match="mine holds something else than a listening page"):
        build_report(small, tmp_path / "mine")
    with pytest.raises(NldiffError, match=r"index\.html is a file: a folder expected"):
        build_report(small, tmp_path / "mine" / "index.html")
    assert (tmp_path / "mine" / "index.html").read_text() == "my homepage"


def test_what_cannot_be_reported(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NldiffError, match=r"loudness 3 LUFS: -70 to 0 expected$"):
        build_report(run, lufs=3)
    with pytest.raises(NldiffError, match=r"results\.csv does not exist$"):
        build_report(tmp_path)
    silent = rewrite(run, tmp_path / "silent", lambda row: row)
    (silent / "audio").rmdir()
    with pytest.raises(NldiffError, match=r"has no folder 'audio': run nldiff evaluate with save_audio=true$"):
        build_report(silent)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(NldiffError, match=r'pip install "nldiff\[report\]"$'):
        build_report(run)


class Server(SimpleHTTPRequestHandler):
    """The simplest of web servers: it does not even know ranges."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(request: pytest.FixtureRequest, index: Path) -> Iterator[str]:
    """Folder of the page as a browser sees it: of files, or with the parameter "http" on a server."""
    if getattr(request, "param", "file") == "file":
        yield f"{index.parent.as_uri()}/"
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(index.parent))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """The page, freshly opened; in the end nothing was complained of or asked from elsewhere."""
    begin(chromium)
    chromium.get(f"{address}index.html")
    yield chromium
    chromium.execute_script("localStorage.clear()")
    assert complaints(chromium) == []
    urls = requests(chromium)
    assert f"{address}index.html" in urls
    assert not [url for url in urls if not url.startswith((address, f"blob:{address}", "data:"))]


def states(page: Any) -> list[dict[str, Any]]:
    """What every player does, in the order of the page."""
    return page.execute_script(
        """return [...document.querySelectorAll(".player")].map((cell) => {
             const audio = cell.querySelector("audio"), button = cell.querySelector("button");
             return {playing: !audio.paused, at: audio.currentTime, src: audio.getAttribute("src"),
                     pressed: button.ariaPressed, disabled: button.disabled, ready: audio.readyState,
                     note: cell.querySelector("small").textContent};
           });"""
    )


def wait(page: Any, condition: Callable[[], bool]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 10, poll_frequency=0.05).until(lambda _: condition())


def wait_for(page: Any, player: int, seconds: float) -> None:
    """Wait until a player plays and has come to a position."""

    def there() -> bool:
        state = states(page)[player]
        return state["playing"] and state["pressed"] == "true" and state["at"] >= seconds

    wait(page, there)


def only_pressed(page: Any, players: list[int]) -> bool:
    return [n for n, state in enumerate(states(page)) if state["pressed"] == "true"] == players


def buttons(page: Any) -> list[Any]:
    return page.find_elements("css selector", ".player button")


def choose(page: Any, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("css selector", "select")).select_by_visible_text(text)


@pytest.mark.browser
@pytest.mark.parametrize("address", ["file", "http"], indirect=True)
def test_players_load(page: Any) -> None:
    loaded: dict[str, tuple[float, str]] = {}
    for level in ("1 dB", "7 dB"):
        choose(page, level)
        found = page.execute_async_script(
            """const done = arguments[0], audios = [...document.querySelectorAll("audio[src]")];
               Promise.all(audios.map((audio) => new Promise((resolve) => {
                 const tell = () => resolve([audio.getAttribute("src"), audio.duration, audio.error?.message ?? ""]);
                 for (const event of ["canplay", "error"]) audio.addEventListener(event, tell, {once: true});
                 audio.preload = "auto";
                 audio.load();
               }))).then(done);"""
        )
        loaded |= {source: (duration, error) for source, duration, error in found}
    assert len(loaded) == 2 * 3 * 5 - 1
    assert all(duration == pytest.approx(SECONDS, abs=0.01) and not error for duration, error in loaded.values())
    assert len(states(page)) == 2 * 2 * 5


@pytest.mark.browser
def test_the_selector_swaps_the_players_of_its_task(page: Any) -> None:
    before = states(page)
    assert all("hard_clip-sdr-7__" in player["src"] for player in before[:10])
    score = page.find_element("css selector", ".score td").text
    choose(page, "1 dB")
    after = states(page)
    failed = 8  # blind-mlp of the second clip
    assert after[failed]["src"] is None and after[failed]["disabled"] and after[failed]["note"] == f"failed: {ERROR}"
    for n, (one, other) in enumerate(zip(before[:10], after[:10], strict=True)):
        if n != failed:
            assert other["src"] == one["src"].replace("sdr-7", "sdr-1")
            assert not other["disabled"]
    assert after[10:] == before[10:]
    assert page.find_element("css selector", ".score td").text != score
    pictures = page.find_elements("css selector", ".pictures img")
    assert ["hard_clip-sdr-1" in picture.get_attribute("src") for picture in pictures] == 4 * [True] + 4 * [False]
    choose(page, "7 dB")
    assert states(page) == before


@pytest.mark.browser
def test_one_player_plays_at_a_time(page: Any) -> None:
    # same example, another example, another task
    for player in (0, 3, 6, 12):
        buttons(page)[player].click()
        wait_for(page, player, 0.1)
        now = states(page)
        assert [n for n, state in enumerate(now) if state["playing"]] == [player]
        wait(page, partial(only_pressed, page, [player]))
        # an example that is left is unloaded: browsers keep some dozen players only
        loaded = {n: state["ready"] for n, state in enumerate(now) if state["ready"]}
        assert {n // 5 for n in loaded} == {player // 5}, loaded
    buttons(page)[12].click()
    wait(page, partial(only_pressed, page, []))
    assert not any(state["playing"] for state in states(page))


@pytest.mark.browser
@pytest.mark.parametrize("address", ["file", "http"], indirect=True)
def test_the_position_is_kept(page: Any) -> None:
    # very slowly: on a busy machine a clip would be over before the next look at it
    page.execute_script("for (const audio of document.querySelectorAll('audio')) audio.defaultPlaybackRate = 0.1")
    buttons(page)[0].click()
    wait_for(page, 0, 0.01)
    move_slider(page, 1.0)
    buttons(page)[2].click()
    wait_for(page, 2, 1.0)
    method = states(page)[2]
    assert method["at"] < 2.0
    choose(page, "1 dB")  # plays on, from where it was
    wait(page, lambda: states(page)[2]["src"] != method["src"])
    wait_for(page, 2, method["at"] - 0.01)
    level = states(page)[2]
    assert "sdr-1" in level["src"] or level["src"].startswith("blob:http")  # where seeking needs the whole file
    assert level["at"] < 2.9
    buttons(page)[2].click()
    paused = states(page)[2]["at"]
    buttons(page)[5].click()  # another example begins at its own beginning
    wait_for(page, 5, 0.01)
    assert states(page)[5]["at"] < 0.9 < paused
    buttons(page)[1].click()
    wait_for(page, 1, paused - 0.01)
    assert states(page)[1]["at"] < paused + 0.9
    move_slider(page, 0.5)
    wait(page, lambda: states(page)[1]["at"] < paused - 0.1)
    wait_for(page, 1, 0.5)


def move_slider(page: Any, seconds: float) -> None:
    """Move the slider of the first example."""
    slider = page.find_element("css selector", ".position input")
    page.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        slider,
        seconds,
    )


@pytest.mark.browser
def test_keyboard(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        for key in keys:
            page.switch_to.active_element.send_keys(key)

    page.find_element("css selector", "select").send_keys(Keys.ARROW_UP)
    assert "sdr-1__" in states(page)[0]["src"]
    press(Keys.TAB)
    assert page.switch_to.active_element == buttons(page)[0]
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.SPACE)
    wait_for(page, 2, 0.1)
    press(Keys.ARROW_LEFT, Keys.ENTER)
    wait_for(page, 1, 0.1)
    assert [n for n, state in enumerate(states(page)) if state["playing"]] == [1]
    press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.switch_to.active_element == buttons(page)[4]


@pytest.mark.browser
def test_colours_follow_the_system_and_the_switch(page: Any) -> None:
    def background() -> int:
        colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    set_colours(page, "dark")
    assert background() < 150
    set_colours(page, "light")
    assert background() > 600
    page.find_element("id", "theme").click()
    assert background() < 150
    page.refresh()
    assert background() < 150
    assert page.find_element("id", "theme").text == "Light colours"
    page.find_element("id", "theme").click()
    assert background() > 600


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits(page: Any, width: int) -> None:
    set_width(page, width)
    for details in page.find_elements("css selector", "summary"):
        details.click()
    screenshot(page, f"listening-{width}")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    boxes = [button.rect for button in buttons(page)]
    assert all(box["height"] >= 44 and box["width"] >= 44 for box in boxes)
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    rows = len({box["y"] for box in boxes})
    assert rows == (20 if width == 390 else 4)  # a card of players below each other, or a line of the table
    names = page.find_elements("css selector", ".method")
    assert [name.text for name in names[:5]] == (ROWS if width == 390 else [""] * 5)
    assert barriers(page) == []
