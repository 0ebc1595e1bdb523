"""Who is left out by rule, or because a candidate was trained on what they did: how many, and from every arm alike?"""

from collections.abc import Sequence

import msgspec

from analytics.checks.even_loss import Loss, even_loss
from analytics.checks.holes import told
from analytics.facts import ExperimentFacts


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """`excluded[rule]`: units that the experiment's `exclude` leaves out; `training`: units whose feedback trained an arm of this
    experiment (None: none did). `ok` is False where a rule takes from one arm more than its share: leaving out is then itself
    an effect of the arm."""

    excluded: dict[str, Loss]
    training: Loss | None
    ok: bool
    problems: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Units left out; one that several rules name counts for each."""
        return sum(loss.total for loss in (*self.excluded.values(), *([self.training] if self.training else [])))


def left_out(facts: ExperimentFacts, arms: Sequence[str]) -> LeftOut:
    """Each rule against the weights by itself."""
    excluded = {rule: even_loss(counts, facts.periods, arms) for rule, counts in facts.excluded.items()}
    training = even_loss(facts.training_units, facts.periods, arms) if sum(facts.training_units.values()) else None
    problems = [
        f"the rule {rule!r} leaves out more of one arm than of another: {told(loss)}" for rule, loss in excluded.items() if not loss.ok
    ]
    if training is not None and not training.ok:
        problems.append(f"the units that a candidate was trained on are not spread as the weights are: {told(training)}")
    return LeftOut(excluded=excluded, training=training, ok=not problems, problems=tuple(problems))
