"""What a report does by itself, where its experiment says so: ship a winner, roll back harm, take the next step of a ramp.

Each decision is taken from the report, and again on the newest state when it is carried out: what somebody changed since wins.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from analytics.designs import MIXED
from gateway import changes
from gateway.changes import Draft
from gateway.config import Config
from gateway.ledger import Life
from gateway.ramps import guarded, next_share, next_weights, why_not_yet

if TYPE_CHECKING:
    from analytics.report.schema import Report

POLICY = "policy"
What = Literal["ship", "rollback", "ramp"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a report on the life `of` does, and why; `arms` that it ships or takes the weight of, or the `share` to ramp to."""

    what: What
    of: Life
    why: str
    arms: tuple[str, ...] = ()
    share: float = 0.0


def rolls_back(life: Life) -> bool:
    """Does harm take an arm's weight at once? Where nothing is said: if the experiment moves by itself, or judges a round's candidate."""
    declared = life.declared
    if declared.on_harm is not None:
        return declared.on_harm == "rollback"
    return declared.ramp is not None or declared.on_win == "ship" or life.origin == "round"


def acts(life: Life) -> bool:
    """Can a report change this experiment?"""
    return life.state == "running" and (rolls_back(life) or life.declared.on_win == "ship" or life.declared.ramp is not None)


def verdict(life: Life, report: "Report", now: datetime) -> Verdict | None:
    """What the report does to the experiment as it was when it was read; None: nothing."""
    decision = report.decision
    if not acts(life) or decision.action == "invalid":
        return None
    if decision.action == "rollback":
        harmed = _harmed(life, report) if rolls_back(life) else ()
        return Verdict(what="rollback", of=life, why=decision.reason, arms=harmed) if harmed else None
    winner = decision.arm if decision.action == "ship" and life.declared.on_win == "ship" else None
    # Where there is a ramp, all traffic is its last step.
    if winner is not None and (life.declared.ramp is None or guarded(life, report, winner)):
        return Verdict(what="ship", of=life, why=decision.reason, arms=(winner,))
    share = next_share(life)
    if share is None or why_not_yet(life, report, now):
        return None
    held = "every guardrail holds at any look" if life.declared.guardrails else "no guardrail is declared"
    ramp = life.declared.ramp
    steps = f"step {ramp.shares.index(share) + 1} of {len(ramp.shares)}, {share:g} of the traffic" if ramp else ""
    return Verdict(what="ramp", of=life, why=f"{steps}: {held}; {decision.reason}", share=share)


def carry_out(draft: Draft, config: Config, found: Verdict) -> None:
    """Draft what a verdict does, unless its experiment is no longer as the report had it."""
    name, life = found.of.name, draft.ledger.lives.get(found.of.name)
    if life is None or life.state != "running" or life.started_at != found.of.started_at:
        return
    if found.what == "rollback":
        _roll_back(draft, config, life, found)
    elif life.allocation.weights != found.of.allocation.weights or life.weighed_at != found.of.weighed_at:
        return
    elif found.what == "ship":
        changes.act(draft, config, name, "ship", POLICY, found.why, found.arms[0])
    else:
        changes.reweigh(draft, name, next_weights(life, found.share), POLICY, found.why)


def _harmed(life: Life, report: "Report") -> tuple[str, ...]:
    """Every arm with a weight, large enough to tell, that is established worse than a guardrail's margin."""
    # Here, so that a gateway starts without scipy.
    from analytics.decision import SMALLEST_SAMPLE

    found = []
    for metric in report.metrics:
        sizes = {arm.arm: arm.n for arm in metric.arms}
        for comparison in metric.comparisons:
            enough = min(sizes.get(comparison.arm, 0), sizes.get(comparison.vs, 0)) >= SMALLEST_SAMPLE
            if comparison.ok is False and enough and life.allocation.weights.get(comparison.arm, 0) > 0:
                found.append(comparison.arm)
    return tuple(dict.fromkeys(found))


def _roll_back(draft: Draft, config: Config, life: Life, found: Verdict) -> None:
    """The harmed arms' weight goes to the control; where that leaves nothing to compare, or nothing the design can be, it stops."""
    weights, control = life.allocation.weights, life.declared.control
    harmed = [arm for arm in found.arms if weights.get(arm, 0) > 0]
    if not harmed:
        return
    left = [arm for arm, weight in weights.items() if weight > 0 and arm != control and arm not in harmed]
    if left and life.declared.design not in MIXED:
        after = {arm: 0.0 if arm in harmed else weight for arm, weight in weights.items()}
        after[control] = 1 - sum(weight for arm, weight in after.items() if arm != control)
        try:
            msgspec.structs.replace(life.declared, arms=after)
        except ValueError:
            pass
        else:
            changes.reweigh(draft, life.name, after, POLICY, found.why)
            return
    changes.act(draft, config, life.name, "stop", POLICY, found.why, None)
