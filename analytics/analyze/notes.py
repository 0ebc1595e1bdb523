"""How the numbers of an analysis were made, in plain words."""

from collections.abc import Mapping

from analytics.analyze.asked import Asked
from analytics.analyze.covariate_option import covariates_of
from analytics.analyze.statistics import AnalysisStatistics
from analytics.inference.bayes import PRIOR_SD
from analytics.report.words import plural

CORRECTIONS = {"holm": "Holm", "benjamini_hochberg": "Benjamini-Hochberg"}
LIFTS = {"delta": "the delta method", "fieller": "Fieller's theorem", "log_delta": "the delta method on the logarithm"}


def notes(asked: Asked, statistics: AnalysisStatistics, several_rows: int, moved: Mapping[str, int]) -> list[str]:
    """The notes that apply."""
    rules = statistics.rules
    what = "one row is one unit"
    if asked.unit:
        what = f"rows of one {asked.unit!r} are taken together (a sum; a proportion: did it at all)"
        what += f"; {plural(several_rows, 'unit')} {'has' if several_rows == 1 else 'have'} several" if several_rows else ""
    looks = f"Intervals and p-values are for one planned look, at {1 - rules.alpha:.0%}; of the lift by {LIFTS[rules.lift]}."
    if asked.sequential:
        looks += f' Those "at any look" stay right however often the table is read; they are tightest at {rules.planned_units:,.0f} units.'
    lines = [
        f"Every arm is compared with {asked.control!r}; {what}.",
        looks,
        f"P(better) starts from a normal prior on the lift, around 0 with standard deviation {PRIOR_SD:.0%}.",
        *_families(statistics),
        *_covariates(asked, statistics),
    ]
    if asked.empty is not None:
        lines.append(f"A missing value of a metric counts as {asked.empty:g}.")
    if asked.period:
        lines.append(f"Arms are compared within each {asked.period!r}, so that a change of weights is no effect.")
    if asked.stratify:
        lines.append(f"Post-stratified by {asked.stratify!r}, which must be known before the exposure.")
    lines += [f"{plural(n, 'unit')} with rows of several {column!r} count by the first row." for column, n in moved.items()]
    if any(a.role == "guardrail" for a in statistics.asked):
        lines.append(
            "A guardrail holds when the arm is shown to be no worse than the margin, is broken when shown to be worse, and is "
            "open until then (one-sided, at any look)."
        )
    if not asked.weights:
        held = " Slices are held against the shares of all units." if asked.breakdowns else ""
        lines.append(f"The sample ratio is not checked: say what was intended with --weights.{held}")
    return lines


def _families(statistics: AnalysisStatistics) -> list[str]:
    others = len(statistics.arms) - 1
    families = {role: others * sum(a.role == role for a in statistics.asked) for role in ("primary", "secondary", "guardrail")}
    several = [f"{count} {role}" for role, count in families.items() if count > 1]
    if not several:
        return []
    correction = CORRECTIONS.get(statistics.rules.correction)
    if correction is None:
        return [f"Several comparisons ({', '.join(several)}), each at its own alpha: p-values and intervals are not corrected."]
    return [f"Several comparisons share one alpha, corrected by {correction}: {', '.join(several)}."]


def _covariates(asked: Asked, statistics: AnalysisStatistics) -> list[str]:
    if not asked.covariates:
        return []
    plain = [metric.name for metric in asked.metrics if not covariates_of(metric, asked.covariates)]
    names = ", ".join(dict.fromkeys(c.name for c in asked.covariates))
    text = f"Covariates ({names}) take their share of the noise; they must be from before the exposure."
    lines = [text + (f" Not for {', '.join(plain)}." if plain else "")]
    filled = {column: n for measured in statistics.metrics for column, n in measured.filled.items()}
    lines += [f"{plural(n, 'unit')} without a value of {column!r} count as its mean." for column, n in filled.items()]
    return lines
