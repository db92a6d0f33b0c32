"""`nldiff app` as its users meet it: the real program, and a browser."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from browser import barriers, begin, complaints, requests, screenshot, set_width
from command_line import ROOT, one_line
from helpers import TINY_RATE, clipped, save_tiny_prior

from nldiff.app.worker import Setting
from nldiff.cli import run_command
from nldiff.errors import NldiffError

LIMIT = 0.1  # MB


@dataclass
class App:
    """A running program, its address, and the folder for everything temporary."""

    program: subprocess.Popen[str]
    address: str
    temporary: Path

    def left(self) -> list[str]:
        return [path.name for path in self.temporary.iterdir() if path.name.startswith("nldiff-app-")]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nldiff", "app", "--port", "0", *arguments]
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **pipes)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    prior = save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors")
    folder = tmp_path_factory.mktemp("temporary")
    program = start(folder, "--prior", str(prior), "--limit-mb", str(LIMIT))
    assert program.stdout
    address = program.stdout.readline().split(" ")[0]
    try:
        yield App(program, address, folder)
    finally:
        program.kill()
        program.communicate()


def wait(page: Any, selector: str, words: str) -> None:
    """Wait until an element holds some words."""
    from selenium.common import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    def there(_: Any) -> bool:
        return any(words in element.text for element in page.find_elements("css selector", selector))

    WebDriverWait(page, 120, 0.05, [StaleElementReferenceException]).until(there)


def upload(page: Any, path: Path) -> None:
    """Choose a file and send it, with the keyboard alone."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(key: str) -> Any:
        ActionChains(page).send_keys(key).perform()
        return page.switch_to.active_element

    press(Keys.TAB)  # to the button for colours
    file = press(Keys.TAB)
    assert file.get_attribute("id") == "file"
    file.send_keys(str(path))  # stands for the window of the system
    assert press(Keys.TAB).text == "Restore"
    press(Keys.ENTER)


@pytest.mark.browser
def test_in_a_browser(app: App, chromium: Any, tmp_path: Path) -> None:
    sf.write(tmp_path / "my take.wav", clipped(1.0, TINY_RATE).T, TINY_RATE)
    (tmp_path / "bad.wav").write_bytes(b"nonsense")
    sf.write(tmp_path / "big.wav", np.zeros(int(LIMIT * 1e6)), TINY_RATE)
    begin(chromium)

    def check(name: str) -> None:
        for width in (390, 1280):
            set_width(chromium, width)
            screenshot(chromium, f"app-{name}-{width}")
            assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
            assert barriers(chromium) == []

    chromium.get(app.address)
    check("start")
    upload(chromium, tmp_path / "big.wav")
    wait(chromium, "[role=alert]", "big.wav: 0.2 MB, at most 0.1 MB are taken (--limit-mb)")
    chromium.refresh()
    upload(chromium, tmp_path / "bad.wav")
    wait(chromium, "[role=alert]", "bad.wav")
    said = chromium.find_element("css selector", "[role=alert]").text
    assert str(app.temporary) not in said and "\n" not in said
    check("bad")
    chromium.find_element("link text", "Restore another recording").send_keys("\n")
    wait(chromium, "h1", "Restore a recording")
    upload(chromium, tmp_path / "my take.wav")
    wait(chromium, "h1", "my take.wav: restored")
    check("restored")
    links = {link.text: link.get_attribute("href") for link in chromium.find_elements("css selector", "#files ~ ul a")}
    assert sorted(links) == [f"my take.{end}" for end in ("curve.csv", "curve.png", "json", "restored.wav")]
    fetch = "const [at, done] = arguments; fetch(at).then((r) => r.blob()).then((b) => done([b.type, b.size]))"
    kind, size = chromium.execute_async_script(fetch, links["my take.restored.wav"])
    assert kind == "audio/wav" and size > 4 * TINY_RATE
    players = chromium.find_elements("css selector", ".player button")
    assert [player.is_enabled() for player in players[:2]] == [True, True]
    assert complaints(chromium) == []
    assert all(url.startswith((app.address, "data:", "blob:")) for url in requests(chromium))
    assert app.left() != []


@pytest.mark.browser
def test_progress_is_shown_and_the_end_removes_everything(app: App, chromium: Any, tmp_path: Path) -> None:
    sf.write(tmp_path / "long.wav", clipped(6.0, TINY_RATE).T, TINY_RATE)
    begin(chromium)
    chromium.get(app.address)
    upload(chromium, tmp_path / "long.wav")
    wait(chromium, "h1", "long.wav: being restored")
    wait(chromium, "#time", "s left")
    screenshot(chromium, "app-progress")
    assert barriers(chromium) == []
    os.killpg(app.program.pid, signal.SIGTERM)  # as a closed terminal or a shutdown: all its processes
    _, err = app.program.communicate(timeout=60)
    assert app.program.returncode == 128 + signal.SIGTERM
    # Before it, Python may say that a signal came in a callback of the process that restores, and was ignored there.
    assert err.splitlines()[-1] == "ended by SIGTERM"
    assert app.left() == []


def test_the_first_process_takes_no_notice_of_ctrl_c() -> None:
    script = """if __name__ == "__main__":
        import multiprocessing, signal
        from nldiff.app.worker import _interrupts_blocked
        with _interrupts_blocked():
            process = multiprocessing.get_context("spawn").Process(target=print)
            process.start()
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        process.join()
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    program = start(tmp_path)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("nldiff-app-*")):
        assert time.monotonic() < until and program.poll() is None
        time.sleep(0.05)
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out, err) == (130, "", "interrupted\n")
    assert not list(tmp_path.glob("nldiff-app-*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit-mb", "0"], "--limit-mb 0: a number above 0 expected"),
        (["--limit-mb", "nan"], "--limit-mb nan: a number above 0 expected"),
        (["nonsense=1"], "nonsense"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("app", arguments, "nldiff app") == 1
    assert words in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "prior"),
    [([], "auto"), (["prior=speech"], "speech"), (["prior=speech", "--prior", "guitar"], "guitar")],
)
def test_the_prior_is_an_option_or_a_setting(
    arguments: list[str], prior: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(setting: Setting) -> None:
        raise NldiffError(f"prior {setting.config.prior}")

    monkeypatch.setattr("nldiff.cli.app.Worker", refused)
    assert run_command("app", arguments, "nldiff app") == 1
    assert one_line(capsys) == f"error: prior {prior}\n"
