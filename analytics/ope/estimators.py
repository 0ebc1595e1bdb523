"""IPS, SNIPS and the doubly robust estimate of a policy's mean reward, and the correction of given predictions."""

import math

import msgspec
import numpy as np

from analytics.inference.tails import two_sided_critical
from analytics.ope.reward_model import fit
from analytics.ope.running import Running
from analytics.ope.survey import Survey
from analytics.ope.target import Target

ALPHA = 0.05


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """`estimator`: ips, snips, dr, or `corrected` (predictions given with the log). `ci`: 95 %, normal."""

    estimator: str
    value: float
    se: float
    ci: tuple[float, float]


def estimates(target: Target, seen: Survey, clip: float | None) -> list[Estimate]:
    """Rows are independent, or clustered by the log's units. With w = pi(A|x)/e(A|x), capped at `clip` where given, and n rows:

    ips: mean of w Y, se sd/sqrt n; snips: sum w Y/sum w, se sqrt(sum w^2 (Y - SNIPS)^2)/sum w (delta method); dr: mean of
    E_pi q + w (Y - q(A)), q cross-fitted; corrected: mean of f + w (Y - f), f the prediction of the target's reward.
    Dudik, Langford & Li 2011; Swaminathan & Joachims 2015; Angelopoulos et al. 2023 (prediction-powered inference).
    Raises as the log's chunks do.
    """
    model = fit(target, seen)
    units, near = target.log.units, seen.snips
    ips, doubly, corrected = Running(units, near), Running(units, near), Running(units, near)
    residual, by_unit = 0.0, np.zeros(units)
    for chunk in target.log.chunks():
        stratum, weight = target.weighed(chunk)
        if clip is not None:
            weight = np.minimum(weight, clip)
        shown, policy = model.of_rows(chunk, stratum)
        within = weight * weight * chunk.m2
        ips.add(weight * chunk.mean, within, chunk.rows, chunk.unit)
        doubly.add(policy + weight * (chunk.mean - shown), within, chunk.rows, chunk.unit)
        residual += float((weight * weight) @ (chunk.rows * (chunk.mean - seen.snips) ** 2 + chunk.m2))
        if chunk.unit is not None:
            by_unit += np.bincount(chunk.unit, weights=weight * (chunk.mean - seen.snips), minlength=units)
        if chunk.prediction is not None:
            corrected.add(chunk.prediction + weight * (chunk.mean - chunk.prediction), within, chunk.rows, chunk.unit)
    found = [
        _estimate("ips", ips.mean, ips.se),
        _estimate("snips", seen.snips, math.sqrt(float(by_unit @ by_unit) if units else residual) / seen.total),
        _estimate("dr", doubly.mean, doubly.se),
    ]
    return [*found, _estimate("corrected", corrected.mean, corrected.se)] if corrected.n else found


def interval(value: float, se: float) -> tuple[float, float]:
    """Of level 1 - `ALPHA`, normal."""
    half = two_sided_critical(ALPHA) * se
    return value - half, value + half


def _estimate(name: str, value: float, se: float) -> Estimate:
    return Estimate(estimator=name, value=value, se=se, ci=interval(value, se))
