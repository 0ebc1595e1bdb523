"""The effect by days since exposure: does it fade as the new wears off, or grow as people learn?"""

from collections.abc import Sequence

from analytics.experiment import Experiment, Metric
from analytics.facts import Age, Moments
from analytics.report.comparisons import Question, Rules, compare_family
from analytics.report.merging import too_few
from analytics.report.schema import AgePoint


def novelty(experiment: Experiment, metric: Metric, ages: Sequence[Age], rules: Rules) -> list[AgePoint]:
    """A point per day of life that both the control and another arm have units in. `metric` is the primary one.

    Intervals are for one look and corrected over all days and arms together. Later days hold fewer units: only those that have
    lived through them, which are the ones that came first. Counts that would need an exact test are not compared.
    """
    known = [age for age in sorted(ages, key=lambda a: a.day) if _comparable(age, experiment.control)]
    questions = [
        Question(
            metric=f"day {age.day}",
            role="primary",
            kind=metric.inferred_as,
            direction=metric.direction,
            facts=_enough(age, metric, experiment.control),
            brief=True,
        )
        for age in known
    ]
    if not questions:
        return []
    compared = compare_family(questions, list(experiment.arms), experiment.control, rules)
    return [
        AgePoint(
            day=age.day,
            units={arm: age.primary[arm].n if arm in age.primary else 0 for arm in experiment.arms},
            lift={c.arm: c.relative.value for c in row.comparisons},
            ci={c.arm: c.relative.ci for c in row.comparisons},
        )
        for age, row in zip(known, compared, strict=True)
    ]


def _enough(age: Age, metric: Metric, control: str) -> dict[str, Moments]:
    """The arms of a day that are compared, and the control."""
    base = age.primary[control]
    return {arm: m for arm, m in age.primary.items() if arm == control or not too_few(metric.inferred_as, base, m)}


def _comparable(age: Age, control: str) -> bool:
    base = age.primary.get(control)
    return base is not None and base.n > 0 and any(m.n for arm, m in age.primary.items() if arm != control)
