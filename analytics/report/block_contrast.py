"""Two arms of a switchback compared by its blocks."""

from analytics.report.found import Found
from analytics.report.question import Question


def block_found(question: Question, arm: str, control: str) -> Found:
    """`arm` against `control`, a block being one observation."""
    return Found(None, "no inference: not yet")
