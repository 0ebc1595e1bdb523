"""Two arms of a bandit compared by scores on the logged propensities; never by the arms' own means."""

from analytics.report.found import Found
from analytics.report.question import Question


def adaptive_found(question: Question, arm: str, control: str) -> Found:
    """`arm` against `control` by augmented inverse propensity weighting."""
    return Found(None, "no inference: not yet")
