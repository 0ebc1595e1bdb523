"""Does one arm fail more often? Its units keep their arm (intention to treat), so failures are part of what it does to them."""

from collections.abc import Sequence

import msgspec

from analytics.facts import ArmFacts, ExperimentFacts, Moments
from analytics.inference.exact import fisher_p
from analytics.inference.ratio import ratio_contrast
from analytics.inference.tails import two_sided_p

FAILURES_ALPHA = 0.001


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """The share of requests that failed per arm, and per arm against the control the p-value, Bonferroni over the arms.

    It is the larger of two: Fisher's exact test on requests, which few failures cannot deceive, and the delta method per unit,
    which one person with many failures cannot deceive. `ok` is False under 0.001.
    """

    shares: dict[str, float]
    p_values: dict[str, float]
    ok: bool
    problems: tuple[str, ...] = ()


def nothing_known() -> Failures:
    """What a report says that was made before there was this check."""
    return Failures(shares={}, p_values={}, ok=True)


def failures(facts: ExperimentFacts, arms: Sequence[str], control: str) -> Failures:
    """Every arm's failed requests against the control's."""
    known = {arm.arm: arm for arm in facts.arms if arm.generations}
    shares = {arm: known[arm].failures / known[arm].generations for arm in arms if arm in known}
    others = [arm for arm in arms if arm != control]
    per_unit = facts.metrics.get("failure_rate", {})
    p_values, problems = {}, []
    for arm in others:
        if arm not in known or control not in known:
            continue
        p_values[arm] = min(1.0, _p_value(known[control], known[arm], per_unit.get(control), per_unit.get(arm)) * len(others))
        if p_values[arm] < FAILURES_ALPHA:
            more, less = (arm, control) if shares[arm] > shares[control] else (control, arm)
            problems.append(
                f"{more!r} fails more often than {less!r}: {_told(known[more])} against {_told(known[less])}, p = {p_values[arm]:.1e}"
            )
    return Failures(shares=shares, p_values=p_values, ok=not problems, problems=tuple(problems))


def _p_value(control: ArmFacts, treated: ArmFacts, a: object, b: object) -> float:
    exact = fisher_p(control.failures, control.generations, treated.failures, treated.generations)
    contrast = ratio_contrast(a, b) if isinstance(a, Moments) and isinstance(b, Moments) else None
    return exact if contrast is None else max(exact, two_sided_p(contrast.statistic(), contrast.df))


def _told(arm: ArmFacts) -> str:
    return f"{arm.failures:,} of {arm.generations:,} requests"
