"""The summary of a restored file on the terminal."""

from pathlib import Path

import numpy as np

from nldiff.restoration.output import Outputs


def summary(path: Path, outputs: Outputs) -> str:
    """Summarise a restoration in a few lines.

    Args:
        path: the input.
        outputs: result of `nldiff.restoration.output.restore_file`.
    """
    report = outputs.report
    table = np.genfromtxt(outputs.curve_table, delimiter=",", skip_header=1)
    # Almost all restored samples are within this range; beyond it the curve is a guess.
    inputs = np.array([-1.0, -0.5, -0.1, 0.1, 0.5, 1.0]) * report["curve_range"]
    points = np.interp(inputs, table[:, 0], table[:, 1])
    if report["prior"]:
        errors = ", ".join(f"{name} {error:.2f} dB" for name, error in report["prior_scores"].items())
        work = [
            f"{len(report['cost'])} steps, {report['network_evaluations']} network evaluations, "
            f"{report['seconds']:.0f} s, seed {report['seed']}",
            f"prior {report['prior']}" + (f", the lowest denoising error of: {errors}" if errors else ", as named"),
        ]
    else:
        weights = f", weights {report['weights']}" if report["weights"] else ""
        work = [f"method {report['method']}{weights}, {report['seconds']:.0f} s"]
    band = f"restored up to {report['restored_band_hz']:.0f} Hz"
    if report["sample_rate"] / 2 > report["restored_band_hz"]:
        band += "; above it, " + {"drop": "nothing", "keep": "as observed"}[report["config"]["above_band"]]
    pairs = "  ".join(f"{x:+.3f} -> {y:+.3f}" for x, y in zip(inputs, points, strict=True))
    lines = [
        f"{path.name} -> {outputs.audio}",
        *(f"  {line}" for line in work),
        f"  {band}",
        f"  curve (restored -> observed): {pairs}",
        f"  curve(restored) explains the recording to {report['explained_db']:.1f} dB",
    ]
    if verdict := report["verdict"]:
        odds = ", ".join(f"{name} {value:+.1f}" for name, value in verdict["log_odds"].items())
        lines.insert(1, f"  verdict: {verdict['finding']} (log-odds against nothing happened: {odds})")
    for when, values in report.get("scores", {}).items():
        lines.append(
            f"  {when:6} SI-SDR {values['si_sdr_db']:.2f} dB, LSD {values['lsd']:.3f}, "
            f"RR-MSE {values['rr_mse_db']:.1f} dB"
        )
    return "\n".join(lines)
