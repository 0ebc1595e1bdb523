"""Ramps: the share of all arms but the control, step by step. Pure functions of an experiment's life and its report."""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from analytics.experiment import Experiment
from gateway.ledger import Life

if TYPE_CHECKING:
    from analytics.report.schema import Report

# Shares that differ by less are one share: weights are sums of decimals.
SAME_SHARE = 1e-9


def first_weights(declared: Experiment) -> dict[str, float] | None:
    """The weights of a ramp's first step: challengers by their declared weights, all alike where these are 0. None without a ramp."""
    if declared.ramp is None:
        return None
    challengers = {arm: weight for arm, weight in declared.arms.items() if arm != declared.control}
    if not math.fsum(challengers.values()) > 0:
        challengers = dict.fromkeys(challengers, 1.0)
    return _shared(declared.arms, declared.control, challengers, declared.ramp.shares[0])


def next_share(life: Life) -> float | None:
    """The next larger share of the ramp; None without a ramp, at its end, or while the control has all: someone has halted it."""
    ramp, control = life.declared.ramp, life.allocation.weights[life.declared.control]
    if ramp is None or control >= 1 - SAME_SHARE:
        return None
    return next((share for share in ramp.shares if share > 1 - control + SAME_SHARE), None)


def next_weights(life: Life, share: float) -> dict[str, float]:
    """The weights in which all arms but the control have `share`, to each other as they are now: one that was rolled back stays
    out, and no unit leaves an arm that grows."""
    control, now = life.declared.control, life.allocation.weights
    return _shared(now, control, {arm: weight for arm, weight in now.items() if arm != control}, share)


def where(life: Life, waits: str) -> dict[str, object] | None:
    """The ramp as it is shown: the share of now, the next one, and what the last report found it to wait for. None without a ramp."""
    if life.declared.ramp is None:
        return None
    share = 1 - life.allocation.weights[life.declared.control]
    return {"share": round(share, 9), "next_share": next_share(life), "waits": waits if life.state == "running" else ""}


def why_not_yet(life: Life, report: "Report", now: datetime) -> str:
    """Why the step cannot be left yet, in words; empty when it can."""
    ramp, active = life.declared.ramp, {arm for arm, weight in life.allocation.weights.items() if weight > 0}
    if ramp is None:
        return "there is no ramp"
    if report.decision.action in ("invalid", "rollback", "stop"):
        return f"the report says {report.decision.action}"
    left = datetime.fromisoformat(life.weighed_at) + timedelta(hours=ramp.step_hours) - now
    if left > timedelta(0):
        return f"{left.total_seconds() / 3600:.2g} of {ramp.step_hours:g} hours are left"
    units = {arm.arm: arm.units for arm in report.arms}
    fewest = min(active, key=lambda arm: (units.get(arm, 0), arm))
    if units.get(fewest, 0) < ramp.step_units:
        return f"arm {fewest!r} has {units.get(fewest, 0)} of {ramp.step_units} units"
    return next((f"guardrail {metric} is not yet shown to hold for {arm!r}" for metric, arm in _open(life, report) if arm in active), "")


def guarded(life: Life, report: "Report", arm: str) -> bool:
    """Is every guardrail shown to hold for an arm, at any look?"""
    return all(other != arm for _, other in _open(life, report))


def _open(life: Life, report: "Report") -> list[tuple[str, str]]:
    """Guardrails and arms, of all arms but the control, that are not shown to hold; one that the report lacks is among them."""
    shown = {(m.metric, c.arm) for m in report.metrics if m.role == "guardrail" for c in m.comparisons if c.ok}
    challengers = [arm for arm in life.declared.arms if arm != life.declared.control]
    return [(metric, arm) for metric in life.declared.guardrails for arm in challengers if (metric, arm) not in shown]


def _shared(arms: Mapping[str, float], control: str, challengers: Mapping[str, float], share: float) -> dict[str, float]:
    total = math.fsum(challengers.values())
    shares = {arm: share * weight / total for arm, weight in challengers.items()}
    return {arm: shares[arm] if arm != control else 1 - math.fsum(shares.values()) for arm in arms}
