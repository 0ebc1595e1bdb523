"""The answer of `salon ope` on a terminal."""

from analytics.ope.answer import Answer
from analytics.report.text import table, wrap

NAMES = {
    "ips": "ips, inverse propensity",
    "snips": "snips, self-normalised",
    "dr": "dr, doubly robust",
    "corrected": "corrected predictions",
}


def to_text(answer: Answer, asked: str) -> str:
    """As text of at most 100 columns, ending in a newline. `asked`: which policy on which log."""
    whose = f" of {answer.units:,} units" if answer.units else ""
    lines = wrap(f"{asked}: {answer.n:,} {answer.rows}{whose}", "")
    rows = [[NAMES[e.estimator], *_numbers(e.value, e.se, e.ci)] for e in answer.estimates]
    logged = answer.logged
    rows.append(["the log's own mean", *_numbers(logged.value, logged.se, logged.ci)])
    lines += ["", *table(["estimate of the mean reward", "value", "se", "95% interval"], rows), ""]
    verdict = "Overlap: " if answer.overlap.ok else "Not to be relied on: " if answer.estimates else "No estimate: "
    lines += wrap(f"{verdict}{answer.overlap.reason}.", "", "  ")
    weights = answer.weights
    if weights.largest:
        lines += wrap(
            f"Weights: {answer.effective_samples:,.0f} effective {answer.rows}; the largest is {weights.largest:.4g}, "
            f"the least propensity {weights.least_propensity:.4g}.",
            "",
            "  ",
        )
    if answer.overlap.cells:
        lines.append("Never shown, and wanted")
        for cell in answer.overlap.cells[:10]:
            where = "".join(f", {key} {value}" for key, value in cell.at.items())
            lines += wrap(f"{cell.action}{where}: probability {cell.probability:.4g}", "  - ", "    ")
        if len(answer.overlap.cells) > 10:
            lines.append(f"  - and {len(answer.overlap.cells) - 10:,} more")
    for note in answer.notes:
        lines += wrap(note, "  - ", "    ")
    return "\n".join(lines) + "\n"


def _numbers(value: float, se: float, ci: tuple[float, float]) -> list[str]:
    return [f"{value:.5g}", f"{se:.3g}", f"{ci[0]:.5g} to {ci[1]:.5g}"]
