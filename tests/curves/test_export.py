"""Exports, each run by the program that it is for, against the curve on 10 000 points."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nldiff.curves import Curve
from nldiff.curves.export import DENSE, EXPORTS, even_table, export_curve
from nldiff.errors import NldiffError

X = np.linspace(-1.1, 1.1, 10_000).astype(np.float32)
CURVES = {
    "soft": Curve.from_function(lambda x: 0.5 * np.tanh(6 * x), 0.87),
    "hard": Curve.from_function(lambda x: np.clip(x, -0.25, 0.3), 1.0),
    "fold": Curve.from_function(lambda x: 0.3 * np.sin(9 * x) + 0.05, 0.7),
    "uneven": Curve([-0.9, -0.2, 0.1, 0.4], [-0.3, -0.2, 0.2, 0.25]),
}


def run(*command: str | Path, **options: str) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def numbers(text: str) -> NDArray[np.float64]:
    return np.array(text.split(), dtype=np.float64)


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def in_c(path: Path, folder: Path, includes: str, call: str) -> NDArray[np.float64]:
    """Compile and run a program that distorts every number of stdin."""
    text = f"""{includes}
#include <stdio.h>
int main(void) {{ float x; while (scanf("%f", &x) == 1) {{ {call} printf("%.9g\\n", y); }} return 0; }}
"""
    (folder / "main.c").write_text(text)
    run(program("gcc"), "-std=c99", "-Wall", "-Werror", "-Wno-unused", "-o", folder / "main", folder / "main.c", "-lm")
    return numbers(run(folder / "main", input="\n".join(f"{x:.9g}" for x in X)))


def by_c(path: Path, folder: Path) -> NDArray[np.float64]:
    return in_c(path, folder, f'#include "{path}"', "float y = nldiff_curve(x);")


def by_faust(path: Path, folder: Path) -> NDArray[np.float64]:
    run(program("faust"), "-lang", "c", "-double", "-cn", "shape", path, "-o", folder / "shape.h")
    includes = f"""#define FAUSTFLOAT double
#define min(a, b) ((a) < (b) ? (a) : (b))
#include <stdlib.h>
typedef struct {{ void *metaInterface; void (*declare)(void*, const char*, const char*); }} MetaGlue;
typedef struct {{ void *uiInterface; void (*openVerticalBox)(void*, const char*); void (*closeBox)(void*); }} UIGlue;
#include "{folder / "shape.h"}"
"""
    call = """static shape *dsp = 0;
    if (!dsp) { dsp = newshape(); initshape(dsp, 48000); }
    double in = x, y; double *ins[1] = {&in}, *outs[1] = {&y};
    computeshape(dsp, 1, ins, outs);"""
    return in_c(path, folder, includes, call)


def by_node(script: str, folder: Path) -> NDArray[np.float64]:
    (folder / "x.json").write_text(json.dumps(X.tolist()))
    text = f'const fs = require("fs"); const xs = JSON.parse(fs.readFileSync("{folder / "x.json"}"));\n{script}'
    (folder / "run.js").write_text(text)
    return numbers(run(program("node"), folder / "run.js"))


def by_web_audio_rules(path: Path, folder: Path) -> NDArray[np.float64]:
    """As the specification of WaveShaperNode says, in JavaScript."""
    return by_node(
        f"""const s = JSON.parse(fs.readFileSync("{path}")); const c = new Float32Array(s.curve), N = c.length;
for (const x of xs) {{
  const v = (N - 1) / 2 * (x * s.inputGain + 1), k = Math.floor(v), f = v - k;
  console.log(v < 0 ? c[0] : v >= N - 1 ? c[N - 1] : (1 - f) * c[k] + f * c[k + 1]);
}}""",
        folder,
    )


def by_jsfx(path: Path, folder: Path) -> NDArray[np.float64]:
    """The statements of the effect are JavaScript too, but for the table, which is memory."""
    _, init, sample = path.read_text().replace("@sample", "@init").split("@init")
    init = init.replace("table = 0;", "table = [];")
    declared = "var table, limit, last, position, index, spl0, spl1; const {floor, min, max} = Math;"
    loop = f"for (const x of xs) {{ spl0 = x; spl1 = -x; {sample} console.log(spl0); mirrored.push(spl1); }}"
    check = "if (!mirrored.every(Number.isFinite)) throw Error('right channel');"
    return by_node(f"{declared} const mirrored = [];\n{init}\n{loop}\n{check}", folder)


def by_onnxruntime(path: Path, folder: Path) -> NDArray[np.float64]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"samples": X.reshape(2, -1, 5)})
    assert (found.shape, found.dtype) == ((2, 1000, 5), np.float32)
    return np.asarray(found, dtype=np.float64).ravel()


RUNTIMES: dict[str, Callable[[Path, Path], NDArray[np.float64]]] = {
    "webaudio": by_web_audio_rules,
    "faust": by_faust,
    "jsfx": by_jsfx,
    "c": by_c,
    "onnx": by_onnxruntime,
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_run_by_its_program_is_the_curve(tmp_path: Path, kind: str, curve: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnx")
    path = tmp_path / f"curve{EXPORTS[kind].suffix}"
    export_curve(CURVES[curve], path, kind)
    found = RUNTIMES[kind](path, tmp_path)
    np.testing.assert_allclose(found, CURVES[curve].look_up(X), atol=1e-4)


@pytest.mark.browser
def test_a_wave_shaper_node_of_a_browser_is_the_curve(tmp_path: Path) -> None:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox"):
        options.add_argument(argument)
    curve = CURVES["soft"]
    export_curve(curve, tmp_path / "curve.json", "webaudio")
    script = """
const [settings, xs, done] = arguments;
const context = new OfflineAudioContext(1, xs.length, 44100);
const buffer = context.createBuffer(1, xs.length, 44100);
buffer.copyToChannel(new Float32Array(xs), 0);
const source = new AudioBufferSourceNode(context, {buffer});
const gain = new GainNode(context, {gain: settings.inputGain});
const shaper = new WaveShaperNode(context, {curve: new Float32Array(settings.curve)});
source.connect(gain).connect(shaper).connect(context.destination);
source.start();
context.startRendering().then(made => done(Array.from(made.getChannelData(0))));
"""
    driver = webdriver.Chrome(options=options)
    try:
        driver.get("data:text/html,<title>shaper</title>")
        settings = json.loads((tmp_path / "curve.json").read_text())
        found = driver.execute_async_script(script, settings, X.tolist())
    finally:
        driver.quit()
    np.testing.assert_allclose(found, curve.look_up(X), atol=1e-4)


def test_points_that_are_evenly_spaced_are_kept_and_others_sampled(tmp_path: Path) -> None:
    table = even_table(CURVES["soft"])
    assert (table.limit, len(table.values)) == (0.87, 1001)
    CURVES["soft"].save(tmp_path / "c.csv")
    assert len(even_table(Curve.load(tmp_path / "c.csv")).values) == 1001
    assert len(even_table(CURVES["uneven"]).values) == DENSE


def test_what_cannot_be_exported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NldiffError, match=r"'vst' \(known: webaudio"):
        export_curve(CURVES["soft"], tmp_path / "c", "vst")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(NldiffError, match=r"nldiff\[export\]"):
        export_curve(CURVES["soft"], tmp_path / "c.onnx", "onnx")
    assert not list(tmp_path.iterdir())
