"""The summary of a restored file on the terminal."""

from pathlib import Path
from typing import Any

import numpy as np

from nldiff.cli.terminal import one_line
from nldiff.restoration.output import Outputs
from nldiff.restoration.parts import channel_names


def summary(path: Path, outputs: Outputs) -> str:
    """Summarise a restoration in a few lines.

    Args:
        path: the input.
        outputs: result of `nldiff.restoration.output.restore_file`.
    """
    report = outputs.report
    if report["prior"]:
        errors = ", ".join(f"{name} {error:.2f} dB" for name, error in report["prior_scores"].items())
        counts = (len(report["cost"]), "steps"), (report["network_evaluations"], "evaluations of the prior")
        work = [
            "".join(f"{count} {what}, " for count, what in counts if count)
            + f"{report['seconds']:.0f} s, seed {report['seed']}",
            f"prior {report['prior']}" + (f", the lowest denoising error of: {errors}" if errors else ", as named"),
        ]
    else:
        weights = f", weights {report['weights']}" if report["weights"] else ""
        work = [f"method {report['method']}{weights}, {report['seconds']:.0f} s"]
    found = [] if report["verdict"] and report["verdict"]["unchanged"] else _found(outputs)
    lines = [one_line(f"{path.name} -> {outputs.audio}"), *(f"  {line}" for line in (*work, *found))]
    several = len(report["parts"]) > 1
    lines[1:1] = [f"  {line}" for part in report["parts"] for line in _verdict(part, several)]
    if abs(report["level_db"]) >= 0.05:
        lines.append(f"  level: what was not distorted is {report['level_db']:+.1f} dB, compared with the recording")
    for when, values in report.get("scores", {}).items():
        lines.append(
            f"  {when:6} SI-SDR {values['si_sdr_db']:.2f} dB, LSD {values['lsd']:.3f}, "
            f"RR-MSE {values['rr_mse_db']:.1f} dB"
        )
    return "\n".join(lines)


def _found(outputs: Outputs) -> list[str]:
    """What the restoration covers and which curve it found; of what comes back as it is there is nothing to say."""
    report = outputs.report
    table = np.genfromtxt(outputs.curve_table, delimiter=",", skip_header=1)
    # Almost all restored samples are within this range; beyond it the curve is a guess.
    inputs = np.array([-1.0, -0.5, -0.1, 0.1, 0.5, 1.0]) * report["curve_range"]
    points = np.interp(inputs, table[:, 0], table[:, 1])
    above = {"drop": "nothing", "keep": "as observed"}[report["config"]["above_band"]]
    narrower = report["sample_rate"] / 2 > report["restored_band_hz"]
    pairs = "  ".join(f"{x:+.3f} -> {y:+.3f}" for x, y in zip(inputs, points, strict=True))
    return [
        *([f"restored up to {report['restored_band_hz']:.0f} Hz; above it, {above}"] if narrower else []),
        f"curve (restored -> observed): {pairs}",
        f"curve(restored) explains the recording to {report['explained_db']:.1f} dB (as any increasing curve would)",
    ]


def _verdict(part: dict[str, Any], named: bool) -> list[str]:
    verdict = part["verdict"]
    if verdict is None:
        return []
    odds = ", ".join(f"{name} {value:+.1f}" for name, value in verdict["log_odds"].items())
    where = f"{channel_names([number - 1 for number in part['channels']])}: " if named else ""
    evidence = f" (log-odds against nothing happened: {odds})" if odds else ""
    lines = [f"verdict: {where}{verdict['finding']}{evidence}"]
    if expected := verdict["expected_sdr_db"]:
        lines.append(
            f"{where}SI-SDR of about {expected['middle']:.0f} dB expected, in nine of ten cases "
            f"{expected['low']:.0f} to {expected['high']:.0f} dB"
        )
    return lines
