"""Headless Chromium for the tests of the pages: what it complains of, what it asks for, what axe finds."""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import pytest

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required --window-size=1280,900"
)
# What everybody agrees on, and what is advised.
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that keeps logs of its console and of its requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    programs = [which("chromium"), which("chromedriver")]
    if None in programs:
        pytest.fail("chromium and chromedriver are missing: apt-get install chromium chromium-driver", pytrace=False)
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for flag in _FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    driver.set_script_timeout(60)
    try:
        yield driver
    finally:
        driver.quit()


def begin(driver: Any) -> None:
    """Forget what an earlier test set, and begin both logs anew."""
    driver.get("about:blank")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    for kind in ("browser", "performance"):
        driver.get_log(kind)


def complaints(driver: Any) -> list[str]:
    """What the console says since the logs began."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: Any) -> list[str]:
    """Addresses that were asked for since the logs began."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def set_width(driver: Any, width: int) -> None:
    """Show pages as on a screen of a width, CSS pixels."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def set_colours(driver: Any, scheme: str) -> None:
    """Show pages as a system of light or dark colours does."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def barriers(driver: Any) -> list[str]:
    """What axe finds wrong with the page for people who see, hear or move differently: rule and element, a line each.

    The page is looked at in dark colours; in light ones only the contrast is another.
    """
    from axe_core_python.selenium import Axe

    driver.execute_script(Axe().axe_script)
    found = []
    for scheme, rules in (("dark", _RULES), ("light", ["color-contrast"])):
        set_colours(driver, scheme)
        # what passes is only asked for whether there is anything: thousands of elements would take their time
        answer = driver.execute_async_script(
            "const [rules, done] = arguments;"
            "axe.run({runOnly: rules, resultTypes: ['violations']}).then(done, (e) => done({error: `${e}`}))",
            rules,
        )
        assert answer.get("passes"), answer.get("error")
        found += [
            f"{scheme}: {rule['id']}: {node['target']} {node['failureSummary']}"
            for rule in answer["violations"]
            for node in rule["nodes"]
        ]
    return found


def screenshot(driver: Any, name: str) -> None:
    """Keep a picture of the whole page, if the variable NLDIFF_SCREENSHOTS names a folder for them."""
    if folder := os.environ.get("NLDIFF_SCREENSHOTS"):
        size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        options = {"captureBeyondViewport": True, "clip": size | {"scale": 1}}
        picture = driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
        Path(folder, f"{name}.png").write_bytes(base64.b64decode(picture))
