"""The exact sign test: of those that took a side, did more take one than chance gives?"""

from scipy.special import betainc


def sign_test(won: int, lost: int) -> float:
    """Two-sided p of `won` against `lost`, each as likely as the other where nothing differs; 1 where nobody took a side.

    Ties are left out beforehand. Arbuthnot 1710; Conover, Practical Nonparametric Statistics, § 3.4. Raises ValueError for counts
    below 0.
    """
    if min(won, lost) < 0:
        raise ValueError(f"won = {won}, lost = {lost}: counts are not below 0")
    if won == lost:
        return 1.0
    # P(X >= k of n) at 1/2 is an incomplete beta function, which keeps its digits far out.
    most = max(won, lost)
    return min(1.0, 2 * float(betainc(most, won + lost - most + 1, 0.5)))
