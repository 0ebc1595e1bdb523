"""Which of two arms people prefer, where each compared both: a score in [0, 1] per person, 1 where the arm won all its votes.

Net preference is 2 x the mean score - 1: +1 where everybody always prefers the arm, 0 where it is as often the one as the other.
Radlinski, Kurup & Joachims 2008, "How does clickthrough data reflect retrieval quality?"; Chapelle, Joachims, Radlinski & Yue 2012,
"Large-scale validation and analysis of interleaved search evaluation".
"""

import math

import msgspec
from scipy.special import betainc, betaincinv

from analytics.inference.sign_test import sign_test
from analytics.inference.tails import two_sided_critical

# What stands for a p-value below what a double holds.
SMALLEST_P = 1e-300


class PairedPreference(msgspec.Struct, frozen=True, kw_only=True):
    """Of `units` people: `net` preference with its standard error (0 where all scored alike), the two-sided `p_value`."""

    units: int
    net: float
    se: float
    p_value: float

    @property
    def df(self) -> int:
        """Of the t quantile in the interval."""
        return self.units - 1

    def interval(self, alpha: float) -> tuple[float, float]:
        """Of the net preference, for one look, within [-1, 1]; leaves out 0 exactly when `p_value` < `alpha`.

        The t interval, its quantile moved by what separates the sign test's p from that of t. Where all scored alike it is
        Clopper and Pearson's of that many won, since no score in [0, 1] spreads more than a 0 or 1 of its mean.
        """
        if self.se == 0:
            won = self.units * (1 + self.net) / 2
            lost = self.units - won
            low = float(betaincinv(won, lost + 1, alpha / 2)) if won > 0 else 0.0
            high = float(betaincinv(won + 1, lost, 1 - alpha / 2)) if lost > 0 else 1.0
            return (2 * low - 1, 2 * high - 1)
        statistic, critical = abs(self.net) / self.se, two_sided_critical(alpha, self.df)
        exact = two_sided_critical(self.p_value, self.df) if self.p_value < 1 else 0.0
        # Added or a factor, whichever is less: a factor grows without bound as p nears 1, and a sum never shrinks with the evidence.
        moved = min(critical + statistic - exact, critical * statistic / exact) if exact > 0 else critical + statistic
        if exact > statistic:
            moved = critical * statistic / exact
        half = moved * self.se
        return (max(-1.0, self.net - half), min(1.0, self.net + half))


def paired_preference(units: int, mean: float, m2: float, won: int, lost: int) -> PairedPreference | None:
    """From the scores of `units` people (`mean`, centred sum of squares `m2`) and how many lean to the arm, `won`, and from it, `lost`.

    p is the sign test's on people, 1 where most lean one way and the mean the other. None without people.
    """
    if units < 1:
        return None
    net = 2 * mean - 1
    # Scores are at most 1 apart: a spread this small is rounding.
    spread = units > 1 and m2 > 1e-18 * units
    se = 2 * math.sqrt(m2 / (units - 1) / units) if spread else 0.0
    p = sign_test(won, lost) if net * (won - lost) > 0 else 1.0
    if se == 0:
        # All alike, yet perhaps not all for one side: no surer than as many whole votes.
        more = units * (1 + abs(net)) / 2
        p = max(p, min(1.0, 2 * float(betainc(more, units - more + 1, 0.5))))
    return PairedPreference(units=units, net=net, se=se, p_value=max(SMALLEST_P, p))
