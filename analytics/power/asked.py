"""A plan in question: the metric, the arms and their shares, what is to be found, and how the experiment is read."""

import math
from typing import Literal

import msgspec

from analytics.experiment import MetricKind
from analytics.inference.power import Outcome, Spread, margin_ratio, spread
from analytics.power.arrivals import Arrivals
from analytics.power.numbers import Effect


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A plan in question. Units, planned ones too, are of all arms together; `shares` [arm] sum to 1; `comparisons` share alpha
    (None: as many as arms are compared with the control).

    With `margin` (relative) it is whether an arm is no worse, and `effect` is its true change, 0 unless said.
    """

    metric: str
    kind: MetricKind
    outcome: Outcome
    shares: dict[str, float]
    control: str
    alpha: float = 0.05
    power: float = 0.8
    correction: Literal["holm", "benjamini_hochberg", "none"] = "holm"
    effect: Effect | None = None
    margin: float | None = None
    lower_is_better: bool = False
    units: float | None = None
    days: float | None = None
    planned_units: float = 5000
    looks: int | None = None
    comparisons: int | None = None
    arrivals: Arrivals | None = None
    window_days: float = 0.0

    @property
    def level(self) -> float:
        """The alpha of one comparison: the family's, divided by how many share it (Holm's and Benjamini-Hochberg's strictest step)."""
        return self.alpha if self.correction == "none" else self.alpha / (self.comparisons or len(self.shares) - 1)

    @property
    def smallest_arm(self) -> str:
        """The compared arm with the fewest units: what it shows, the others show too."""
        return min((arm for arm in self.shares if arm != self.control), key=self.shares.__getitem__)

    @property
    def pair(self) -> float:
        """The share of all units that is in the control and `smallest_arm`."""
        return self.shares[self.control] + self.shares[self.smallest_arm]

    @property
    def ratio(self) -> float:
        """What treated/control is compared with."""
        if self.margin is None:
            return 1.0
        return margin_ratio(self.outcome.baseline, self.margin, lower_is_better=self.lower_is_better)

    @property
    def change(self) -> float | None:
        """The true change in the metric's unit."""
        if self.effect is None:
            return None if self.margin is None else 0.0
        return self.effect.absolute(self.outcome.baseline)

    def found(self, change: float) -> Spread:
        """Signed so that what the test looks for is positive. Raises ValueError for an impossible change."""
        signed = spread(self.outcome, change, self.shares[self.control] / self.pair, self.ratio)
        sign = (-1.0 if self.lower_is_better else 1.0) if self.margin is not None else math.copysign(1.0, signed.signal)
        return Spread(sign * signed.signal, signed.null, signed.true)
