"""Every method that a report names → the page of `docs/statistics/` that has its formula."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from analytics.report.schema import Comparison, MetricReport, Report

PLACE = "docs/statistics/"


class Formula(msgspec.Struct, frozen=True, kw_only=True):
    """A method, and the name of its page. `words`: what of it stands in a comparison's `method` or `lift_method`."""

    page: str
    title: str
    words: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """From the root of the repository."""
        return f"{PLACE}{self.page}.md"


NAMED = (
    Formula(page="means", title="Means: Welch's t", words=("welch's t",)),
    Formula(page="proportions", title="Two proportions", words=("two proportions", "newcombe", "mee's", "koopman")),
    Formula(page="exact-tests", title="Exact tests for small counts", words=("boschloo", "fisher's exact", "barnard")),
    Formula(page="ratios", title="Ratios of totals per unit", words=("ratio of totals",)),
    Formula(page="quantiles", title="Quantiles of events clustered by unit", words=("quantile of events",)),
    Formula(page="cuped", title="CUPED", words=("cuped",)),
    Formula(page="regression", title="Several covariates: Lin's regression", words=("lin 2013",)),
    Formula(page="strata", title="Post-stratification, and periods of weights", words=("post-stratified", "periods of constant weights")),
    Formula(page="adaptive", title="When weights follow the outcome", words=("aipw",)),
    Formula(page="switchback", title="Switchback: blocks of time", words=("switchback",)),
    Formula(page="preference", title="Preference within a grid", words=("preference",)),
    Formula(page="lifts", title="Lifts", words=("delta method", "log-delta", "fieller", "koopman", "no lift", "lift unbounded")),
)
CAPS = Formula(page="caps", title="Capping")
SEQUENCES = Formula(page="sequences", title="At any look: confidence sequences")
GUARANTEED = Formula(page="guaranteed", title="Guaranteed at any sample size")
GROUP_SEQUENTIAL = Formula(page="group-sequential", title="Planned looks: group-sequential bounds")
E_VALUES = Formula(page="e-values", title="e-values and e-BH")
BAYES = Formula(page="bayes", title="Posteriors")
FAMILIES = Formula(page="families", title="Several comparisons: Holm, Benjamini-Hochberg, Bonferroni")
GUARDRAILS = Formula(page="guardrails", title="Guardrails: not worse than a margin")
SAMPLE_RATIO = Formula(page="sample-ratio", title="Sample ratio")
CHECKS = Formula(page="checks", title="The other checks")
BREAKDOWNS = Formula(page="breakdowns", title="Breakdowns and heterogeneity")
COURSE = Formula(page="course", title="The course of an experiment, and novelty")
POSITION = Formula(page="position", title="Position: cells, arms, trust")
DUELS = Formula(page="duels", title="Duels: strengths, ranks, and what does not fit one order")
# In the order in which a report shows them.
ALL = (
    *NAMED, CAPS, FAMILIES, SEQUENCES, GUARANTEED, GROUP_SEQUENTIAL, E_VALUES, BAYES, GUARDRAILS, SAMPLE_RATIO, CHECKS, BREAKDOWNS, COURSE,
    DUELS, POSITION,
)  # fmt: skip


def formulas(report: Report) -> list[Formula]:
    """Those that this report uses, each once."""
    used = {formula.page for formula in _used(report)}
    return [formula for formula in ALL if formula.page in used]


def of_comparison(comparison: Comparison) -> list[Formula]:
    """Those that made one comparison's test and intervals; none where there was no inference."""
    if comparison.p_value is None:
        return []
    said = f"{comparison.method}; {comparison.lift_method}".lower()
    return [formula for formula in NAMED if any(word in said for word in formula.words)]


def page_text(formula: Formula) -> str | None:
    """The page in Markdown; None where this installation has no docs."""
    for folder in (Path(__file__).parent / "formula_pages", Path(__file__).parents[2] / PLACE):
        file = folder / f"{formula.page}.md"
        if file.is_file():
            return file.read_text("utf-8")
    return None


def _used(report: Report) -> Iterator[Formula]:
    yield from (SAMPLE_RATIO, CHECKS)
    for metric in report.metrics:
        yield from _of_metric(metric)
    for role in ("primary", "secondary", "guardrail"):
        if sum(len(m.comparisons) for m in report.metrics if m.role == role) > 1:
            yield FAMILIES
    if report.breakdowns:
        yield from (BREAKDOWNS, FAMILIES)
    if report.path or report.novelty:
        yield COURSE
    if report.board is not None:
        yield DUELS
    if report.position is not None:
        yield POSITION


def _of_metric(metric: MetricReport) -> Iterator[Formula]:
    if metric.cap is not None:
        yield CAPS
    if metric.role == "guardrail":
        yield GUARDRAILS
    for comparison in metric.comparisons:
        yield from of_comparison(comparison)
        parts = (
            (None if metric.kind == "preference" else comparison.always_valid, SEQUENCES),
            (comparison.guaranteed, GUARANTEED),
            (comparison.group_sequential, GROUP_SEQUENTIAL),
            (comparison.bayes, BAYES),
            (comparison.e_bh, E_VALUES),
        )
        yield from (formula for part, formula in parts if part is not None)
