"""Moments of numbers per unit in one arm: the sufficient statistics of means and ratios, with covariates or without."""

import msgspec


class Moments(msgspec.Struct, frozen=True, kw_only=True, tag="moments"):
    """Per-unit totals of one metric in one arm. `m2` is the centred sum of squares; `comoment` that of products.

    For a ratio metric `mean` is of the numerator and the `denominator_*` fields are filled; else they are 1, 0, 0.
    """

    n: int
    mean: float
    m2: float
    denominator_mean: float = 1.0
    denominator_m2: float = 0.0
    comoment: float = 0.0


class Joint(msgspec.Struct, frozen=True, kw_only=True, tag="joint"):
    """Several numbers per unit in one arm: `products[i][j]` is the centred sum of products, symmetric, [k][k].

    The first is the outcome y; for a ratio the second is its denominator d; then come the covariates, for a ratio's own
    pre-period again as numerator and denominator: `covariates` names them, one or two columns each (`ratios` says which two).
    """

    n: int
    means: tuple[float, ...]
    products: tuple[tuple[float, ...], ...]
    ratio: bool = False
    covariates: tuple[str, ...] = ()
    ratios: tuple[bool, ...] = ()

    @property
    def outcome(self) -> Moments:
        """The outcome alone."""
        if not self.ratio:
            return Moments(n=self.n, mean=self.means[0], m2=self.products[0][0])
        return Moments(
            n=self.n,
            mean=self.means[0],
            m2=self.products[0][0],
            denominator_mean=self.means[1],
            denominator_m2=self.products[1][1],
            comoment=self.products[0][1],
        )
