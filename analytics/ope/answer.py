"""The answer of `salon ope`."""

import msgspec

from analytics.ope.estimators import Estimate, estimates, interval
from analytics.ope.logged import Log
from analytics.ope.overlap import Overlap, overlap
from analytics.ope.policy_table import Policy
from analytics.ope.survey import Survey, survey
from analytics.ope.target import Target


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """The mean reward under the policy that logged."""

    value: float
    se: float
    ci: tuple[float, float]


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Of pi/e, unclipped: their mean over all rows, which should be 1, and the largest. `clipped`: rows cut to `clip`."""

    mean: float
    se: float
    largest: float
    least_propensity: float
    clip: float | None
    clipped: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """No `estimates` where the log never shows what the policy wants; where `overlap` is otherwise not ok, do not rely on them."""

    n: int
    estimates: list[Estimate]
    effective_samples: float
    overlap: Overlap
    logged: Logged
    weights: Weights
    notes: list[str]
    rows: str = "rows"
    units: int | None = None


def answer(log: Log, policy: Policy, clip: float | None = None) -> Answer:
    """Raises ValueError for a log or a policy that cannot be read together."""
    target = Target(log, policy)
    seen = survey(target, clip)
    if seen.with_reward < 2:
        raise ValueError(f"{seen.with_reward} of the log's {log.rows} have a reward; it takes at least 2")
    found = overlap(target, seen)
    return Answer(
        n=seen.n,
        estimates=[] if found.missing else estimates(target, seen, clip),
        effective_samples=seen.effective,
        overlap=found,
        logged=Logged(value=seen.logged, se=seen.logged_se, ci=interval(seen.logged, seen.logged_se)),
        weights=Weights(
            mean=seen.weight,
            se=seen.weight_se,
            largest=seen.largest,
            least_propensity=seen.least_propensity,
            clip=clip,
            clipped=seen.clipped,
        ),
        notes=_notes(target, seen, found, clip),
        rows=log.rows,
        units=log.units or None,
    )


def _notes(target: Target, seen: Survey, found: Overlap, clip: float | None) -> list[str]:
    notes = [*target.log.notes, *target.policy.notes]
    strange = len(target.policy.strata) - len(target.met)
    if strange and not found.missing:
        notes.append(f"{strange:,} combinations of {', '.join(target.policy.columns)} in the policy never turn up in the log.")
    if seen.with_reward < seen.n:
        notes.append(f"{seen.n - seen.with_reward:,} of {seen.n:,} {target.log.rows} have no reward: not shown, they weigh nothing.")
    if found.unseen and not found.missing:
        notes.append(
            f"The log does not show {found.unseen:.2%} of the policy's picks, which may be by chance: "
            "the estimates are right on average if the log could have shown them."
        )
    if found.ok is False and seen.with_reward < seen.n and not found.missing:
        notes.append("`corrected` leans on the predictions, and its interval tells how far the rows that were shown bear them out.")
    if clip is not None:
        kept = seen.total / seen.n
        notes.append(f"Weights above {clip:g} were cut in {seen.clipped:,} {target.log.rows}; the mean weight then is {kept:.3f}.")
    if not found.missing and target.log.rows == "rows" and not target.log.units:
        notes.append("Intervals take rows as independent. Those of one person are not: say whose they are with --unit.")
    return notes
