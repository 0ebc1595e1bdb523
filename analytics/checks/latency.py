"""Were the arms served alike? Mean latency per unit, every arm against the control."""

from collections.abc import Mapping, Sequence

import msgspec

from analytics.facts import Moments
from analytics.inference.contrast import Interval
from analytics.inference.mean import mean_contrast
from analytics.inference.tails import two_sided_critical

# A latency gap below both of these is not felt: a share of the control's latency, and about half of what people notice.
LATENCY_SHARE, LATENCY_MS = 0.05, 50.0


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
