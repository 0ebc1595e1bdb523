"""Questions for tests of comparisons, and one comparison of two arms."""

import numpy as np

from analytics.facts import Joint, Moments, QuantileFacts
from analytics.report.comparisons import compare_family
from analytics.report.question import Question, Rules
from analytics.report.schema import Comparison


def ask(kind: str = "mean", direction: str = "up", **facts: Moments | QuantileFacts) -> Question:
    return Question(metric="y", role="primary", kind=kind, direction=direction, facts=facts)


def compare(question: Question, **options: object) -> Comparison:
    (metric,) = compare_family([question], ["base", "vivid"], "base", Rules(**options))
    (comparison,) = metric.comparisons
    return comparison


def joint(y: np.ndarray, *x: np.ndarray) -> Joint:
    rows = np.stack([y, *x])
    apart = rows - rows.mean(axis=1, keepdims=True)
    return Joint(
        n=rows.shape[1],
        means=tuple(map(float, rows.mean(axis=1))),
        products=tuple(tuple(map(float, row)) for row in apart @ apart.T),
        covariates=tuple(f"x{i}" for i in range(len(x))),
    )
