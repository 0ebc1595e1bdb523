"""Two arms of a switchback compared by its blocks."""

import math
from datetime import timedelta

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.facts import QuantileFacts
from analytics.facts_of_designs import BlockFacts
from analytics.inference.contrast import welch_df
from analytics.inference.quantile import quantile_contrast
from analytics.inference.switchback import Blocks, Floats, effect, expected_rates
from analytics.report.found import Found
from analytics.report.question import Question
from analytics.report.schema import MetricArm

METHOD = "switchback: {n} blocks, ratio of totals over blocks, less what earlier blocks foretell"
QUANTILE = "switchback: quantile of events clustered by block (Deng et al. 2018), Welch's t over blocks"
WEIGHED = "no inference: weights changed between blocks, and a quantile cannot be put together from parts"
# Times of day that are taken to be alike: an hour, or a block where that is longer.
SMALLEST_SLOT_MINUTES = 60.0


def block_found(question: Question, arm: str, control: str) -> Found:
    """`arm` against `control`, a block being one observation; their units are blocks."""
    if question.kind == "quantile":
        return _quantile_found(question, arm, control)
    if question.blocks is None or question.metric not in question.blocks.totals:
        return Found(None, "no inference: no data")
    blocks, _ = pair_of(question.blocks, question.metric, arm, control)
    found = effect(blocks)
    if found is None:
        return Found(None, "no inference: too few blocks, or no variation")
    return Found(found.contrast, METHOD.format(n=found.contrast.units))


def _quantile_found(question: Question, arm: str, control: str) -> Found:
    """As for units, with blocks in their place and their number for the degrees of freedom."""
    a, b = question.facts.get(control), question.facts.get(arm)
    if not isinstance(a, QuantileFacts) or not isinstance(b, QuantileFacts):
        return Found(None, "no inference: no data")
    if question.blocks is not None and len(set(question.blocks.stretches)) > 1:
        return Found(None, WEIGHED)
    contrast = quantile_contrast(a, b)
    if contrast is None:
        return Found(None, QUANTILE)
    freedom = (a.units - 1, b.units - 1)
    df = welch_df(contrast.control_variance, contrast.difference_variance - contrast.control_variance, freedom)
    return Found(msgspec.structs.replace(contrast, df=df, freedom=freedom), QUANTILE)


def pair_of(facts: BlockFacts, metric: str, arm: str, control: str) -> tuple[Blocks, Floats]:
    """The blocks that are over of two arms, where both could be drawn; and of each the probability to be the `arm`'s, given that it
    was one of the two."""
    totals = facts.totals[metric]
    n = len(totals.numerators)
    y, d = np.array(totals.numerators, dtype=float), np.array(totals.denominators, dtype=float)
    own = np.array(facts.arms[:n], dtype=object)
    held = [facts.weights[place] for place in facts.stretches[:n]]
    a, b = (np.array([weights.get(name, 0.0) for weights in held], dtype=float) for name in (control, arm))
    chosen: NDArray[np.bool_] = ((own == arm) | (own == control)) & (a > 0) & (b > 0)
    everything = Blocks(
        numbers=np.array(facts.numbers[:n], dtype=np.int64),
        treated=own == arm,
        propensities=np.array(facts.propensities[:n], dtype=float),
        numerators=y,
        denominators=d,
        expected=expected_rates(facts.numbers[:n], slots(facts)[:n], totals.numerators, totals.denominators),
    )
    return everything.of(chosen), (b[chosen] / (a[chosen] + b[chosen]))


def slots(facts: BlockFacts) -> list[int]:
    """The time of day (UTC) at which each block begins, in hours, or in blocks where these are longer."""
    length = max(SMALLEST_SLOT_MINUTES, facts.block_minutes)
    found = []
    for number in facts.numbers:
        at = facts.origin + timedelta(minutes=facts.block_minutes) * number
        found.append(int((at.hour * 60 + at.minute + at.second / 60) // length))
    return found


def shown_blocks(facts: BlockFacts, metric: str, kind: str, arms: list[str]) -> dict[str, MetricArm]:
    """Each arm's blocks, its ratio of totals as it was seen, and what that varies by from block to block; nothing of a quantile."""
    if kind == "quantile":
        return {}
    found = {}
    totals = facts.totals.get(metric)
    for arm in arms:
        mine = [i for i, name in enumerate(facts.arms[: len(totals.numerators)]) if name == arm] if totals else []
        y = np.array([totals.numerators[i] for i in mine] if totals else [], dtype=float)
        d = np.array([totals.denominators[i] for i in mine] if totals else [], dtype=float)
        w = np.array([1 / facts.propensities[i] for i in mine], dtype=float)
        n, size = int((d > 0).sum()), float(w @ d)
        mean = float(w @ y) / size if size > 0 else None
        spread = None
        if mean is not None and n > 1:
            with np.errstate(over="ignore", invalid="ignore"):
                parts = w * (y - mean * d) / size
                spread = float(n * np.sqrt(parts @ parts / (n - 1)))
        found[arm] = MetricArm(arm=arm, n=n, mean=mean, sd=spread if spread is not None and math.isfinite(spread) else None)
    return found
