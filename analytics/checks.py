"""Can these numbers be trusted? Sample ratio, exposure, latency between arms, bots."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from scipy.special import gammaln

from analytics.facts import ExperimentFacts, Moments, WeightPeriod
from analytics.inference.contrast import Interval
from analytics.inference.mean import mean_contrast
from analytics.inference.tails import chi_square_p, two_sided_critical

# Lindon & Malek's prior: how many units' worth of belief in the stated weights. 1000 sees a 49/51 split in about 40,000 units.
SRM_CONCENTRATION = 1000.0
# The e-process reaches 1000 in at most 1 of 1000 healthy experiments, whenever one looks.
SRM_GATE = 1000.0
# Units in an arm of weight 0: a few are requests in flight while a weight changed; more is a broken split.
STRAY_SHARE, STRAY_UNITS = 0.01, 10
MULTIPLE_EXPOSURE_SHARE = 0.01
# A latency gap below both of these is not felt: a share of the control's latency, and about half of what people notice.
LATENCY_SHARE, LATENCY_MS = 0.05, 50.0


class SampleRatio(msgspec.Struct, frozen=True, kw_only=True):
    """Do arms have the units that their weights promise? `e_value` gates (valid at any look); `p_value` is for one look.

    `expected` are units per arm; `stray_units` got an arm whose weight was 0 and are in neither figure.
    """

    p_value: float | None
    e_value: float
    ok: bool
    units: dict[str, int]
    expected: dict[str, float]
    stray_units: int


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """`multiple_exposure`: units that saw several arms (left out). `propensity_balance[arm]`: units x mean(1/propensity)
    over the units that could have got the arm, which is 1 when the logged propensities are those of the draw."""

    multiple_exposure: int
    multiple_exposure_share: float
    generations_without_exposure: int
    propensity_balance: dict[str, float]
    ok: bool
    problems: tuple[str, ...] = ()


class LatencyGap(msgspec.Struct, frozen=True, kw_only=True):
    """Mean latency per unit, `arm` - control, for the arm furthest from the control; `arms` has every arm's gap in ms.

    `ok` is False when the gap is established and large enough to be felt.
    """

    ms: float | None
    ci: Interval
    ok: bool
    arm: str | None
    arms: dict[str, float]
    felt: tuple[str, ...] = ()


class Bots(msgspec.Struct, frozen=True, kw_only=True):
    """Suspicious traffic: events with any flag (left out of the metrics unless `counted`), and units that look like bots."""

    flagged_events: int
    units: int
    flagged_share: float
    counted: bool = False


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """What has to hold before a number is believed."""

    srm: SampleRatio
    exposure: Exposure
    latency_gap: LatencyGap
    bots: Bots


def check(facts: ExperimentFacts, arms: Sequence[str], control: str, alpha: float) -> Checks:
    """All checks of an experiment; `arms` in the order of its definition."""
    flagged = facts.flagged_events / facts.events_read if facts.events_read else 0.0
    return Checks(
        srm=sample_ratio(facts.periods, arms),
        exposure=exposure(facts),
        latency_gap=latency_gap(facts.latency, arms, control, alpha),
        bots=Bots(flagged_events=facts.flagged_events, units=facts.bot_units, flagged_share=flagged, counted=facts.flagged_counted),
    )


def sample_ratio(periods: Sequence[WeightPeriod], arms: Sequence[str]) -> SampleRatio:
    """Chi-square and e-process over periods of constant weights: a ramp is no mismatch."""
    rows = [([period.weights.get(arm, 0.0) for arm in arms], [period.units.get(arm, 0) for arm in arms]) for period in periods]
    stray = sum(n for weights, counts in rows for weight, n in zip(weights, counts, strict=True) if weight <= 0)
    clean = [(weights, [n if w > 0 else 0 for w, n in zip(weights, counts, strict=True)]) for weights, counts in rows]
    log_e = math.fsum(_log_e(weights, counts) for weights, counts in clean)
    total = sum(sum(counts) for _, counts in clean)
    return SampleRatio(
        p_value=_chi_square(clean),
        e_value=math.exp(min(log_e, 690.0)),
        ok=log_e < math.log(SRM_GATE) and stray <= max(STRAY_UNITS, STRAY_SHARE * total),
        units={arm: sum(counts[i] for _, counts in clean) for i, arm in enumerate(arms)},
        expected={arm: math.fsum(_shares(weights)[i] * sum(counts) for weights, counts in clean) for i, arm in enumerate(arms)},
        stray_units=stray,
    )


def _shares(weights: Sequence[float]) -> list[float]:
    total = math.fsum(w for w in weights if w > 0)
    return [max(0.0, w) / total if total > 0 else 0.0 for w in weights]


def _log_e(weights: Sequence[float], counts: Sequence[int]) -> float:
    """ln of the Dirichlet-multinomial Bayes factor against the stated weights (Lindon & Malek 2022, arXiv 2011.03567, eq. 5).

    Each period starts afresh from its own weights; the product over periods is again an e-process.
    """
    pairs = [(share, n) for share, n in zip(_shares(weights), counts, strict=True) if share > 0]
    if len(pairs) < 2:
        return 0.0
    # ln Gamma of a subnormal number is infinite; a share that small is none that any draw could show.
    shares, observed = np.maximum([s for s, _ in pairs], 1e-300), np.array([n for _, n in pairs], dtype=float)
    prior = SRM_CONCENTRATION * shares
    gained = float(np.sum(gammaln(prior + observed) - gammaln(prior)) - gammaln(prior.sum() + observed.sum()) + gammaln(prior.sum()))
    return gained - float(np.sum(observed * np.log(shares)))


def _chi_square(rows: Sequence[tuple[Sequence[float], Sequence[int]]]) -> float | None:
    """P-value of (O - E)' V^+ (O - E), V = sum over periods of n (diag(w) - w w'): Pearson's where there is one period."""
    if not rows:
        return None
    size = len(rows[0][0])
    apart, variance = np.zeros(size), np.zeros((size, size))
    for weights, counts in rows:
        shares, n = np.array(_shares(weights)), float(sum(counts))
        apart += np.array(counts, dtype=float) - n * shares
        variance += n * (np.diag(shares) - np.outer(shares, shares))
    values, vectors = np.linalg.eigh(variance)
    kept = values > 1e-9 * max(float(values[-1]), 1e-300)
    df = int(kept.sum())
    if df == 0:
        return None
    along = vectors[:, kept].T @ apart
    return chi_square_p(float(np.sum(along**2 / values[kept])), df)


def exposure(facts: ExperimentFacts) -> Exposure:
    """Units in several arms, generations of unexposed units, and whether the logged propensities are those of the draw."""
    total = sum(arm.units for arm in facts.arms)
    share = facts.multiple_exposure / (total + facts.multiple_exposure) if total + facts.multiple_exposure else 0.0
    problems = []
    if share > MULTIPLE_EXPOSURE_SHARE:
        problems.append(f"{facts.multiple_exposure} units ({share:.1%}) saw more than one arm and are left out")
    balance = {}
    for arm in facts.arms:
        inverse = arm.mean_inverse_propensity
        if inverse is None or not math.isfinite(inverse) or arm.units == 0:
            continue
        open_to = sum(sum(p.units.values()) for p in facts.periods if p.weights.get(arm.arm, 0.0) > 0) or total
        balance[arm.arm] = arm.units * inverse / open_to
        # Of N units a draw with probability e sends sum(1/e) back as N, give or take sqrt(N (1/e - 1)).
        spread = math.sqrt(max(inverse - 1, 0.0) / open_to)
        if share <= MULTIPLE_EXPOSURE_SHARE and abs(balance[arm.arm] - 1) > max(5 * spread, 0.02):
            problems.append(
                f"the logged propensities of arm {arm.arm!r} do not fit its units: their balance is {balance[arm.arm]:.3f}, not 1"
            )
    return Exposure(
        multiple_exposure=facts.multiple_exposure,
        multiple_exposure_share=share,
        generations_without_exposure=facts.generations_without_exposure,
        propensity_balance=balance,
        ok=not problems,
        problems=tuple(problems),
    )


def latency_gap(latency: Mapping[str, Moments], arms: Sequence[str], control: str, alpha: float) -> LatencyGap:
    """Every arm's mean latency minus the control's, Welch intervals at `alpha` shared over the arms."""
    others = [arm for arm in arms if arm != control and arm in latency]
    worst: tuple[float, str, Interval] | None = None
    gaps, felt = {}, []
    base = latency.get(control)
    for arm in others:
        if base is None or not base.n or not latency[arm].n:
            continue
        ms = latency[arm].mean - base.mean
        contrast = mean_contrast(base, latency[arm])
        ci: Interval = (None, None)
        if contrast is not None:
            ci = contrast.difference_interval(two_sided_critical(alpha / len(others), contrast.df))
        gaps[arm] = ms
        established = ci[0] is not None and ci[1] is not None and not ci[0] <= 0 <= ci[1]
        if established and abs(ms) > max(LATENCY_SHARE * base.mean, LATENCY_MS):
            felt.append(arm)
        if worst is None or abs(ms) > abs(worst[0]):
            worst = (ms, arm, ci)
    if worst is None:
        return LatencyGap(ms=None, ci=(None, None), ok=True, arm=None, arms={})
    return LatencyGap(ms=worst[0], ci=worst[2], ok=not felt, arm=worst[1], arms=gaps, felt=tuple(felt))
