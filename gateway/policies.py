"""How a bandit and an active duel draw next: when they are due, what they read, and the change that follows."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from analytics.designs import Bandit, Duel
from analytics.experiment import Metric
from gateway import changes
from gateway.changes import Decide, Draft
from gateway.ledger import Life, pair_name
from gateway.verdicts import POLICY

if TYPE_CHECKING:
    from gateway.reports import Reports

# A chance of a pair that moves by less is no news.
SMALLEST_MOVE = 0.005
PAIRS_TOLD = 3


def every_minutes(life: Life) -> float | None:
    """How often the policy of an experiment may move it; None where it has none."""
    declared = life.declared
    if declared.design == "bandit":
        return (declared.bandit or Bandit()).every_minutes
    duel = declared.duel or Duel()
    return duel.every_minutes if declared.design == "duel" and duel.pairs == "active" else None


def due_at(life: Life) -> datetime | None:
    """When the policy is to look again; None where there is none, or nothing runs."""
    minutes = every_minutes(life)
    if minutes is None or life.state != "running":
        return None
    return datetime.fromisoformat(life.weighed_at) + timedelta(minutes=minutes)


def move(life: Life, reports: "Reports", metrics: Mapping[str, Metric], now: datetime) -> Decide | None:
    """The change of weights or pairs that what is known asks for; None: none. Blocks. Raises Unavailable."""
    return _move_pairs(life, reports, metrics) if life.declared.design == "duel" else _move_weights(life, reports, metrics, now)


def _move_weights(life: Life, reports: "Reports", metrics: Mapping[str, Metric], now: datetime) -> Decide | None:
    # Here, so that a gateway without bandits loads no numerics.
    from analytics.policy.weights import beliefs, next_weights

    declared, weights = life.declared, life.allocation.weights
    bandit, up = declared.bandit or Bandit(), metrics[declared.primary].direction == "up"
    periods = reports.mature(life.name, life.experiment, metrics, now - timedelta(hours=bandit.maturity_hours))
    found = next_weights(periods, weights, bandit, up=up, minimum_units=declared.minimum_units)
    active = [arm for arm, weight in weights.items() if weight > 0]
    known = beliefs(periods, active, up=up, minimum_units=declared.minimum_units)
    if found is None or known is None:
        return None
    why = "P(best): " + ", ".join(f"{arm} {known[arm].best:.2f}" for arm in sorted(known, key=lambda arm: -known[arm].best))
    return _unless_moved(life, lambda draft: changes.reweigh(draft, life.name, found, POLICY, why))


def _move_pairs(life: Life, reports: "Reports", metrics: Mapping[str, Metric]) -> Decide | None:
    from analytics.policy.pairs import next_pairs

    arms = [arm for arm, weight in life.allocation.weights.items() if weight > 0]
    duels = reports.duels(life.name, life.experiment, metrics)
    found = next_pairs(duels, arms, (life.declared.duel or Duel()).floor) if duels is not None else None
    if found is None:
        return None
    names = [pair_name(first, second) for index, first in enumerate(arms) for second in arms[index + 1 :]]
    before = life.pairs or dict.fromkeys(names, 1 / len(names))
    if max(abs(found.get(pair, 0.0) - before.get(pair, 0.0)) for pair in names) < SMALLEST_MOVE:
        return None
    told = sorted(found, key=lambda pair: -found[pair])[:PAIRS_TOLD]
    why = "whose order is least known meets most: " + ", ".join(f"{pair} {found[pair]:.3g}" for pair in told)
    return _unless_moved(life, lambda draft: draft.record(life.name, life.route, "pairs", POLICY, why, {"pairs": found}))


def _unless_moved(life: Life, decide: Decide) -> Decide:
    """The same, on the newest state: another gateway, or a person, may have been faster; then it is due again only later."""

    def decide_again(draft: Draft) -> None:
        now = draft.ledger.lives.get(life.name)
        if now is not None and now.state == "running" and (now.weighed_at, now.allocation) == (life.weighed_at, life.allocation):
            decide(draft)

    return decide_again
