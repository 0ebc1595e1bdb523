"""What a simulation claims: an estimate with its Monte Carlo error, held against what it should be."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["at least", "at most", "about", "none", "shown"]
# An honest claim fails by chance once in 740 lines (one-sided) at three standard errors.
STANDARD_ERRORS = 3.0
WIDTH = 88


@dataclass(frozen=True)
class Claim:
    """What is said about the values under `key` that the runs of a simulation returned: their mean is `rule` `nominal`.

    `slack`: how far an asymptotic method may be off at the sizes simulated, beyond Monte Carlo error. `shown`: no verdict,
    a figure for contrast. `none`: not in a single run. `share`: print in percent.
    """

    text: str
    key: str
    rule: Rule
    nominal: float = math.nan
    slack: float = 0.0
    share: bool = True
    median: bool = False

    def judge(self, values: Mapping[str, Sequence[float]]) -> "Verdict":
        """Raises KeyError where no run returned the key: a line that measured nothing must not pass."""
        sample = values[self.key]
        if not sample:
            raise KeyError(f"{self.key}: no run returned a value")
        return Verdict(self, *(_median(sample) if self.median else _mean(sample, self.share)), len(sample))


@dataclass(frozen=True)
class Verdict:
    """A claim with its estimate, the estimate's Monte Carlo standard error, and how many values it rests on."""

    claim: Claim
    estimate: float
    se: float
    runs: int

    @property
    def ok(self) -> bool:
        """Whether the estimate is as claimed, give or take slack and three standard errors."""
        room = self.claim.slack + STANDARD_ERRORS * self.se
        low, high = self.claim.nominal - room, self.claim.nominal + room
        if self.claim.rule == "shown":
            return True
        if self.claim.rule == "none":
            return self.estimate == 0
        return (self.claim.rule == "at most" or self.estimate >= low) and (self.claim.rule == "at least" or self.estimate <= high)

    def line(self) -> str:
        """Estimate ± Monte Carlo error, what it should be, and whether it is."""
        digits = 3 if self.claim.share and self.claim.nominal < 0.005 else 2
        percent = f"{100 * self.estimate:.{digits}f} ± {100 * self.se:.{digits}f} %"
        figure = percent if self.claim.share else f"{self.estimate:,.4g} ± {self.se:,.2g}"
        if self.claim.rule == "shown":
            return f"  {self.claim.text:<{WIDTH}} {figure:>18}  (for contrast, {self.runs:,} runs)"
        nominal = f"{100 * self.claim.nominal:g} %" if self.claim.share else f"{self.claim.nominal:g}"
        slack = f" ({100 * self.claim.slack:g} points of slack)" if self.claim.slack and self.claim.share else ""
        wanted = "none" if self.claim.rule == "none" else f"{self.claim.rule} {nominal}{slack}"
        return f"  {self.claim.text:<{WIDTH}} {figure:>18}  {wanted:<34} {self.runs:>7,} runs  {'ok' if self.ok else 'FAILED'}"


def _mean(sample: Sequence[float], share: bool) -> tuple[float, float]:
    """Mean and its standard error; of a share never 0, as none of 100 runs is no proof of none."""
    n = len(sample)
    mean = math.fsum(sample) / n
    if share and all(value in (0, 1) for value in sample):
        shrunk = (mean * n + 0.5) / (n + 1)
        return mean, math.sqrt(shrunk * (1 - shrunk) / n)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in sample) / max(1, n - 1) / n)


def _median(sample: Sequence[float]) -> tuple[float, float]:
    """Median, and half the distance of the order statistics one standard error to each side of it."""
    ordered, n = sorted(sample), len(sample)
    spread = math.sqrt(n) / 2
    low, high = ordered[max(0, int(n / 2 - spread))], ordered[min(n - 1, int(n / 2 + spread))]
    return ordered[n // 2], (high - low) / 2
