"""An A/A test on the past: before their exposure the units of all arms should have done the same."""

from collections.abc import Sequence

import msgspec

from analytics.facts import ExperimentFacts
from analytics.inference.ratio import ratio_contrast, ratio_value
from analytics.inference.tails import two_sided_p

PRE_PERIOD_ALPHA = 0.001


class PrePeriod(msgspec.Struct, frozen=True, kw_only=True):
    """The primary metric in the `days` before exposure: its mean per arm, and per arm against the control the difference and
    its p-value (Welch; the delta method for a ratio), Bonferroni over the arms. `ok` is False under 0.001. An arm of which
    nothing can be told is in `means` alone."""

    days: float
    means: dict[str, float]
    differences: dict[str, float]
    p_values: dict[str, float]
    ok: bool
    problems: tuple[str, ...] = ()


def pre_period(facts: ExperimentFacts, arms: Sequence[str], control: str) -> PrePeriod:
    """A difference that was there before the experiment is no effect of it."""
    known = {arm: facts.pre_period[arm] for arm in arms if arm in facts.pre_period and facts.pre_period[arm].n}
    means = {arm: value for arm, moments in known.items() if (value := ratio_value(moments)) is not None}
    others = [arm for arm in arms if arm != control]
    differences, p_values, problems = {}, {}, []
    for arm in others:
        contrast = ratio_contrast(known[control], known[arm]) if control in known and arm in known else None
        if contrast is None:
            continue
        differences[arm] = contrast.difference
        p_values[arm] = min(1.0, two_sided_p(contrast.statistic(), contrast.df) * len(others))
        if p_values[arm] < PRE_PERIOD_ALPHA:
            problems.append(
                f"{arm!r} and {control!r} differed already in the {facts.pre_period_days:g} days before exposure "
                f"({means[arm]:.4g} against {means[control]:.4g}, p = {p_values[arm]:.1e})"
            )
    return PrePeriod(
        days=facts.pre_period_days, means=means, differences=differences, p_values=p_values, ok=not problems, problems=tuple(problems)
    )
