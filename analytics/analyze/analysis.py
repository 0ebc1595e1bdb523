"""The report of a table: the same comparisons as an experiment's, with what a table can tell."""

from collections.abc import Mapping, Sequence

import msgspec

from analytics.analyze.metric_option import Cap, MetricOption
from analytics.analyze.table import Table, TableError
from analytics.analyze.units import Measured, Units, group, measure
from analytics.checks import SampleRatio, sample_ratio
from analytics.events import utc_now
from analytics.experiment import check_weights
from analytics.facts import Moments, QuantileFacts, WeightPeriod
from analytics.inference.bayes import PRIOR_SD
from analytics.inference.cuped import CovariateMoments
from analytics.report.comparisons import Question, Rules, compare_family
from analytics.report.schema import MetricReport, Role
from analytics.settings import nearest


class AnalysisArm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of the table; `weight` as given with --weights."""

    arm: str
    control: bool
    weight: float | None
    units: int


class AnalysisChecks(msgspec.Struct, frozen=True, kw_only=True):
    """`srm` needs --weights; `multiple_exposure`: units with rows in several arms, left out."""

    srm: SampleRatio | None
    multiple_exposure: int


class AnalysisStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to re-derive every number."""

    alpha: float
    planned_units: int
    metrics: dict[str, dict[str, Moments | QuantileFacts]]
    covariates: dict[str, dict[str, CovariateMoments]]


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a report (design §3.6) that a table can fill, with their names and meaning."""

    experiment: str
    rows: int
    method_notes: list[str]
    arms: list[AnalysisArm]
    checks: AnalysisChecks
    metrics: list[MetricReport]
    sufficient_statistics: AnalysisStatistics


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of a table: column names and options of `salon analyze`."""

    arm: str
    control: str
    metrics: Sequence[MetricOption]
    unit: str | None = None
    covariates: Sequence[str] = ()
    lower: Sequence[str] = ()
    cap: Cap | None = None
    weights: Mapping[str, float] | None = None
    sequential: bool = False
    alpha: float = 0.05
    planned_units: int = 5000


def analyze(table: Table, asked: Asked) -> Analysis:
    """Compare every arm with the control. The first metric is primary, the others one family. Raises TableError, ValueError."""
    units = group(table.labels(asked.arm), table.labels(asked.unit) if asked.unit else None)
    _check_arms(table, units, asked)
    for name in asked.lower:
        if name not in {m.column for m in asked.metrics}:
            raise ValueError(f"--lower {name!r} is no column of a --metric; {nearest(name, [m.column for m in asked.metrics])}")
    measured = [measure(table, units, metric, asked.covariates, asked.cap) for metric in asked.metrics]
    arms = [asked.control, *(arm for arm in units.arms if arm != asked.control)]
    counts = {arm: int((units.arm == k).sum()) for k, arm in enumerate(units.arms)}
    compared: list[MetricReport] = []
    for role, members in (("primary", [0]), ("secondary", range(1, len(measured)))):
        questions = [_question(measured[i], asked.metrics[i], "primary" if role == "primary" else "secondary", asked) for i in members]
        if questions:
            compared += compare_family(questions, arms, asked.control, Rules(alpha=asked.alpha, planned_units=asked.planned_units))
    return Analysis(
        experiment=table.path.name,
        rows=table.rows,
        method_notes=_notes(asked, measured, units),
        arms=[
            AnalysisArm(arm=arm, control=arm == asked.control, weight=asked.weights[arm] if asked.weights else None, units=counts[arm])
            for arm in arms
        ],
        checks=AnalysisChecks(srm=_srm(asked, arms, counts), multiple_exposure=units.several_arms),
        metrics=compared if asked.sequential else [_fixed(metric) for metric in compared],
        sufficient_statistics=AnalysisStatistics(
            alpha=asked.alpha,
            planned_units=asked.planned_units,
            metrics={m.name: m.facts for m in measured},
            covariates={m.name: m.covariates for m in measured if m.covariates},
        ),
    )


def _check_arms(table: Table, units: Units, asked: Asked) -> None:
    if asked.control not in units.arms:
        raise TableError(
            f"{table.path}: column {asked.arm!r} has no arm {asked.control!r} (--control); {nearest(asked.control, units.arms)}"
        )
    if len(units.arms) < 2:
        raise TableError(f"{table.path}: column {asked.arm!r} holds one arm only, {units.arms[0]!r}; a comparison needs two")
    if len(units.arms) > 50:
        raise TableError(f"{table.path}: column {asked.arm!r} holds {len(units.arms)} different values; is it the arm?")
    if asked.weights is not None:
        for arm in units.arms:
            if arm not in asked.weights:
                raise TableError(
                    f"--weights says nothing of arm {arm!r} of column {asked.arm!r}; give every arm one, 0 if it should have none"
                )
        for arm in asked.weights:
            if arm not in units.arms:
                raise TableError(f"--weights names {arm!r}, which column {asked.arm!r} does not hold; {nearest(arm, units.arms)}")
        check_weights(dict(asked.weights))


def _question(measured: Measured, option: MetricOption, role: Role, asked: Asked) -> Question:
    return Question(
        metric=measured.name,
        role=role,
        kind=measured.kind,
        direction="down" if option.column in asked.lower else "up",
        facts=measured.facts,
        covariates=measured.covariates,
        note="" if measured.cap is None else f"capped at {measured.cap:g} per unit",
    )


def _srm(asked: Asked, arms: Sequence[str], counts: Mapping[str, int]) -> SampleRatio | None:
    if asked.weights is None:
        return None
    return sample_ratio([WeightPeriod(started_at=utc_now(), weights=dict(asked.weights), units=dict(counts))], arms)


def _fixed(metric: MetricReport) -> MetricReport:
    """Without what is valid at any look: for a table looked at once."""
    return msgspec.structs.replace(metric, comparisons=[msgspec.structs.replace(c, always_valid=None) for c in metric.comparisons])


def _notes(asked: Asked, measured: Sequence[Measured], units: Units) -> list[str]:
    what = f"rows of one {asked.unit!r} are summed (a proportion: did it at all)" if asked.unit else "one row is one unit"
    notes = [
        f"Every arm is compared with {asked.control!r}; {what}.",
        f"Intervals and p-values are for one planned look, at {1 - asked.alpha:.0%}.",
        f"P(better) starts from a normal prior on the lift, around 0 with standard deviation {PRIOR_SD:.0%}.",
    ]
    if asked.sequential:
        notes[1] += f' Those "at any look" stay right however often the table is read; they are tightest at {asked.planned_units:,} units.'
    if (count := (len(measured) - 1) * (len(units.arms) - 1)) > 1 or len(units.arms) > 2:
        notes.append(
            f"Several comparisons share one alpha, corrected by Holm: {len(units.arms) - 1} of the first metric, {count} of the others."
        )
    if asked.covariates:
        plain = [m.name for m in measured if m.covariates is None]
        notes.append(
            f"CUPED with {', '.join(asked.covariates)}, which must be from before the exposure."
            + (f" Not for {', '.join(plain)}." if plain else "")
        )
    if asked.weights is None:
        notes.append("The sample ratio is not checked: say what was intended with --weights.")
    return notes
