"""Normal posterior of a lift: probability to be better, expected losses, interval."""

import math

import msgspec
from scipy.special import ndtr

from analytics.inference.tails import two_sided_critical

PRIOR_SD = 0.3


class Posterior(msgspec.Struct, frozen=True):
    """Normal with this mean and standard deviation, on the scale of the lift."""

    mean: float
    sd: float

    @property
    def prob_positive(self) -> float:
        return float(ndtr(self.mean / self.sd))

    @property
    def loss_if_negative(self) -> float:
        """E max(-lift, 0): what shipping costs on average, counting 0 where it gains."""
        z = self.mean / self.sd
        return max(0.0, self.sd * _density(z) - self.mean * float(ndtr(-z)))

    @property
    def loss_if_positive(self) -> float:
        """E max(lift, 0): what keeping the control costs on average."""
        z = self.mean / self.sd
        return max(0.0, self.sd * _density(z) + self.mean * float(ndtr(z)))

    def interval(self, alpha: float) -> tuple[float, float]:
        """Central credible interval of probability 1 - alpha."""
        half = two_sided_critical(alpha) * self.sd
        return (self.mean - half, self.mean + half)


def posterior(lift: float, se: float, prior_mean: float = 0.0, prior_sd: float = PRIOR_SD) -> Posterior:
    """Posterior of a lift measured with standard error `se` > 0 under a normal prior; an infinite `prior_sd` is a flat one.

    Raises ValueError where `se` or `prior_sd` is not above 0 (or `se` infinite).
    """
    if not (0 < se < math.inf and prior_sd > 0):
        raise ValueError(f"se = {se}, prior_sd = {prior_sd}: a posterior needs a finite se and both above 0")
    if math.isinf(prior_sd):
        return Posterior(lift, se)
    # By hypot, so that a tiny or huge se neither over- nor underflows.
    cosine = prior_sd / math.hypot(se, prior_sd)
    return Posterior(cosine**2 * lift + (1 - cosine**2) * prior_mean, se * cosine)


def relative_prior(mean: float, sd: float, control: float) -> tuple[float, float]:
    """A prior on the difference (in the metric's unit) as one on the lift (arm - control)/|control|: both over |control|.

    Raises ValueError where the control's mean is 0: then there is no lift.
    """
    if not (math.isfinite(control) and control):
        raise ValueError(f"control = {control}: a lift needs a control mean other than 0; use the prior on the difference")
    return (mean / abs(control), sd / abs(control))


def _density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
