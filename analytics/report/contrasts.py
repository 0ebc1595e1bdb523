"""Which inference a question gets: from what is known of two arms to the contrast that is tested."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from analytics.facts import Joint, Moments, QuantileFacts
from analytics.inference.contrast import Contrast
from analytics.inference.cuped import Adjusted, adjusted_contrast
from analytics.inference.exact import SMALLEST_EXPECTED, ExactContrast, exact_contrast
from analytics.inference.lin import lin_contrast, regressed
from analytics.inference.mean import mean_contrast
from analytics.inference.poststratification import Pair, pooled
from analytics.inference.proportion import proportion_contrast
from analytics.inference.quantile import quantile_contrast
from analytics.inference.ratio import ratio_contrast
from analytics.report.adaptive_contrast import adaptive_found
from analytics.report.block_contrast import block_found
from analytics.report.found import Found as Found
from analytics.report.question import Question

METHODS = {
    "mean": "Welch's t test",
    "proportion": "pooled z test of two proportions",
    "ratio": "delta method for a ratio of totals per unit, Welch's t",
    "quantile": "quantile of events clustered by unit (Deng et al. 2018), Welch's t",
}
SMALLEST_PART = 2
BEYOND = "no inference: values are no numbers, or too large or too small to compute with"


def contrast_of(question: Question, arm: str, control: str) -> Found:
    """`arm` against `control`. A contrast that is returned has a finite statistic."""
    try:
        # Numbers near the ends of what doubles hold overflow here and there: they end as "not finite", in words.
        with np.errstate(all="ignore"):
            found = _found(question, arm, control)
            told = found.contrast is not None and _finite(found.contrast)
    except (OverflowError, ZeroDivisionError, np.linalg.LinAlgError):
        return Found(None, BEYOND)
    if told:
        return Found(found.contrast, f"{found.method}; {question.note}" if question.note else found.method, found.variance_reduction)
    if found.contrast is not None:
        return Found(None, BEYOND)
    why = found.method if found.method.startswith("no ") else "no inference: too few observations, or no variation"
    return Found(None, why)


def _finite(contrast: Contrast) -> bool:
    numbers = (contrast.control, contrast.difference, contrast.se, contrast.statistic())
    return all(map(math.isfinite, numbers)) and (contrast.df is None or 0 < contrast.df < math.inf)


def _found(question: Question, arm: str, control: str) -> Found:
    if question.allocation is not None:
        return adaptive_found(question, arm, control)
    if question.blocks is not None:
        return block_found(question, arm, control)
    a, b = question.facts.get(control), question.facts.get(arm)
    if a is None or b is None:
        return Found(None, "no inference: no data")
    if isinstance(a, QuantileFacts) or isinstance(b, QuantileFacts):
        compared = quantile_contrast(a, b) if isinstance(a, QuantileFacts) and isinstance(b, QuantileFacts) else None
        return Found(compared, METHODS["quantile"])
    if len(question.periods) > 1:
        return _over_periods(question, arm, control)
    if len(question.strata) > 1:
        found = _over_strata(question, arm, control)
        if found is not None:
            return found
    plain = _plain(question.kind, a, b)
    # Where counts are too small for the normal, they are too small for what covariates do to it.
    return plain if isinstance(plain.contrast, ExactContrast) else _adjusted(question, arm, control) or plain


def _plain(kind: str, a: Moments, b: Moments) -> Found:
    if kind == "proportion":
        score = proportion_contrast(a, b)
        exact = exact_contrast(score) if score is not None else None
        if exact is None:
            return Found(score, METHODS["proportion"])
        test = "Fisher's exact test (too many units for Boschloo's)" if exact.tests.boschloo is None else "Boschloo's exact test"
        return Found(exact, f"{test} of two proportions, for an expected count is below {SMALLEST_EXPECTED:g}")
    if kind == "ratio":
        return Found(ratio_contrast(a, b), METHODS["ratio"])
    return Found(mean_contrast(a, b), METHODS["mean"])


def _adjusted(question: Question, arm: str, control: str) -> Found | None:
    """By covariates; None where there are none, or they cannot help."""
    plain = METHODS["ratio" if question.kind == "ratio" else "mean"]
    if question.regressed and control in question.regressed and arm in question.regressed:
        rows = lin_contrast(question.regressed[control], question.regressed[arm])
        if rows is not None:
            names = question.regressed[control].covariates
            return Found(rows.contrast, _lin_method(len(question.regressed[control].coefficients), names, "HC2"), rows.variance_reduction)
    pair = _pair(question.joint, arm, control)
    if pair is None or not pair[0].covariates:
        return None
    if len(pair[0].covariates) > 1:
        several = _lin(pair)
        if several is not None:
            method = _lin_method(len(pair[0].covariates), pair[0].covariates, "per-arm variance")
            return Found(several.contrast, method, several.variance_reduction)
    if min(pair[0].n, pair[1].n) < 3:
        return None
    one = adjusted_contrast([pair])
    if one is None or not any(one.theta):
        return None
    return Found(one.contrast, f"CUPED; {plain}", one.variance_reduction)


def _lin(pair: Pair) -> Adjusted | None:
    a, b = regressed(pair[0]), regressed(pair[1])
    return lin_contrast(a, b) if a is not None and b is not None else None


def _lin_method(count: int, names: Sequence[str], variance: str) -> str:
    which = f" ({', '.join(names)})" if names else ""
    return f"regression on {count} covariates{which}, interacted with the arm (Lin 2013), {variance}, normal quantile"


def _over_periods(question: Question, arm: str, control: str) -> Found:
    """Within each period of constant weights, so that a trend in the metric is no effect of a ramp."""
    pairs = [pair for part in question.periods if (pair := _pair(part, arm, control)) is not None]
    usable = [pair for pair in pairs if min(pair[0].n, pair[1].n) >= SMALLEST_PART]
    used = {id(one) for pair in usable for one in pair}
    left = sum(one.n for part in question.periods for name, one in part.items() if name in (arm, control) and id(one) not in used)
    if not usable:
        return Found(None, "no inference: in no period of constant weights have both arms 2 units")
    outside = f"; {left:,} units of periods in which an arm has fewer than {SMALLEST_PART} are left out" if left else ""
    if len(usable) == 1 and not usable[0][0].covariates:
        a, b = (one.outcome for one in usable[0])
        found = _plain(question.kind, a, b)
        return Found(found.contrast, found.method + outside)
    found = _stratified(question.kind, usable, shares_given=True)
    return Found(found.contrast, f"within {len(usable)} periods of constant weights; {found.method}{outside}", found.variance_reduction)


def _over_strata(question: Question, arm: str, control: str) -> Found | None:
    """Strata with too few units are one stratum together; None where then nothing is left to stratify by."""
    pairs = [pair for part in question.strata if (pair := _pair(part, arm, control, empty=True)) is not None]
    usable = sorted((p for p in pairs if min(p[0].n, p[1].n) >= SMALLEST_PART), key=lambda p: p[0].n + p[1].n)
    small = [p for p in pairs if min(p[0].n, p[1].n) < SMALLEST_PART]
    while small and usable and min(sum(p[k].n for p in small) for k in (0, 1)) < SMALLEST_PART:
        small.append(usable.pop(0))
    if small:
        usable.append((pooled([p[0] for p in small]), pooled([p[1] for p in small])))
    if len(usable) < 2:
        return None
    found = _stratified(question.kind, usable, shares_given=False)
    if found.contrast is None:
        return None
    return Found(found.contrast, f"post-stratified over {len(usable)} strata; {found.method}", found.variance_reduction)


def _stratified(kind: str, pairs: Sequence[Pair], *, shares_given: bool) -> Found:
    result = adjusted_contrast(pairs, shares_given=shares_given)
    method = METHODS["ratio" if kind == "ratio" else "mean"]
    if result is None:
        return Found(None, method)
    if any(result.theta):
        return Found(result.contrast, f"CUPED; {method}", result.variance_reduction)
    return Found(result.contrast, method)


def _pair(joint: Mapping[str, Joint] | None, arm: str, control: str, *, empty: bool = False) -> Pair | None:
    """Both arms; with `empty`, an arm that is missing has no units."""
    if not joint:
        return None
    a, b = joint.get(control), joint.get(arm)
    if a is None and b is None:
        return None
    if a is None or b is None:
        if not empty:
            return None
        there = a if a is not None else b
        assert there is not None
        zero = msgspec.structs.replace(there, n=0, products=tuple((0.0,) * len(there.means) for _ in there.means))
        return (a, zero) if a is not None else (zero, there)
    return a, b
