"""Two arms of a switchback: one arm for everybody in each block of time, drawn anew for each; the block is the observation.

A metric is a ratio of totals over blocks, R_k = sum w Y/sum w D over the blocks of arm k, w = 1/propensity. What earlier blocks make
one expect of a block is taken off its numerator first: it is fixed before the block's arm is drawn, so a season or a drift that
can be foreseen is no noise, and a wrong expectation is no bias. The arms alone are random (Bojinov & Shephard 2019; Ham, Bojinov,
Lindon & Tingley 2022, arXiv 2210.08639): outcomes may depend on each other as they like, as long as an arm acts in its own block only.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.inference.contrast import LinearContrast, welch_df
from analytics.inference.tails import two_sided_p

Floats = NDArray[np.float64]

# Of the last blocks' departures the latest counts fully, each one before it by this much of the next.
MEMORY = 0.75
# So many blocks of noise stand against what earlier blocks say of how far one can foresee.
CAUTION_BLOCKS = 4.0
SMALLEST_ARM = 2


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """The blocks of two arms, oldest first, arrays of one length [n]: `numbers` since the start, `treated` or control,
    `propensities` of the arm that each had, totals of numerator and denominator, and of the latter what was `expected` of it beyond
    the mean per unit of denominator (0: nothing is foreseen)."""

    numbers: NDArray[np.int64]
    treated: NDArray[np.bool_]
    propensities: Floats
    numerators: Floats
    denominators: Floats
    expected: Floats

    @property
    def weights(self) -> Floats:
        return 1.0 / self.propensities

    @property
    def adjusted(self) -> Floats:
        """Numerators less what was expected."""
        return self.numerators - self.expected * self.denominators

    def of(self, chosen: NDArray[np.bool_]) -> "Blocks":
        """The chosen ones."""
        return Blocks(**{name: getattr(self, name)[chosen] for name in self.__struct_fields__})


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """`contrast` for tests and intervals. `scores` [n]: what each block adds to the difference, centred, 0 sum within an arm.
    `variance_reduction`: what foreseeing took from the variance."""

    contrast: LinearContrast
    scores: Floats
    variance_reduction: float


def expected_rates(numbers: Sequence[int], slots: Sequence[int], numerators: Sequence[float], denominators: Sequence[float]) -> Floats:
    """How far each block's rate is expected from that of all blocks, by what came before it: [n].

    Two signs: how earlier blocks of the same time of day (`slots`) departed, and how the last blocks did. How much each is worth is
    learned by ridge regression on earlier blocks alone; arms are not looked at, so under "no effect" it is the same whatever arms
    were drawn, and the randomisation test stays exact.
    """
    y, d = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    found = np.zeros(len(y))
    if not d.sum() > 0:
        return found
    apart = y - y.sum() / d.sum() * d
    usual = d.sum() / len(d)
    same: dict[int, tuple[float, float]] = {}
    recent = recent_size = s11 = s12 = s22 = t1 = t2 = noise = 0.0
    before: int | None = None
    for i, (number, slot, one, size) in enumerate(zip(numbers, slots, apart.tolist(), d.tolist(), strict=True)):
        if before is not None:
            fade = MEMORY ** min(number - before - 1, 1000)
            recent, recent_size = recent * fade, recent_size * fade
        total, weight = same.get(slot, (0.0, 0.0))
        x1, x2 = total / (weight + usual), recent / (recent_size + usual)
        ridge = CAUTION_BLOCKS * noise / i if i else 0.0
        a, b = s11 + ridge, s22 + ridge
        determinant = a * b - s12 * s12
        if determinant > 1e-12 * a * b > 0:
            found[i] = (x1 * (b * t1 - s12 * t2) + x2 * (a * t2 - s12 * t1)) / determinant
        s11, s12, s22 = s11 + size * x1 * x1, s12 + size * x1 * x2, s22 + size * x2 * x2
        t1, t2 = t1 + one * x1, t2 + one * x2
        noise += one * one / size if size > 0 else 0.0
        same[slot] = (total + one, weight + size)
        recent, recent_size, before = MEMORY * (recent + one), MEMORY * (recent_size + size), number
    return found


def effect(blocks: Blocks) -> Effect | None:
    """Treated minus control, in the metric's unit, by Hajek's weighted ratio with a variance per arm (n/(n - 1), Welch's df).

    With one propensity and nothing expected this is the delta method of a ratio with blocks as units. The control's value is as it was
    seen, nothing taken off. None with fewer than 2 blocks with something in the denominator in an arm, or no variation at all.
    """
    raw = _halves(blocks, blocks.numerators)
    adjusted = _halves(blocks, blocks.adjusted)
    if raw is None or adjusted is None:
        return None
    (control, seen), _ = raw
    (low, a), (high, b) = adjusted
    scores = np.zeros(len(blocks.numbers))
    scores[~blocks.treated], scores[blocks.treated] = -a, b
    sizes = tuple(int((blocks.denominators[blocks.treated == side] > 0).sum()) for side in (False, True))
    grow_a, grow_b = (n / (n - 1) for n in sizes)
    v_a, v_b, v_seen = grow_a * float(a @ a), grow_b * float(b @ b), grow_a * float(seen @ seen)
    plain = v_seen + grow_b * float(raw[1][1] @ raw[1][1])
    if not v_a + v_b > 0:
        return None
    freedom = (sizes[0] - 1, sizes[1] - 1)
    contrast = LinearContrast(
        control=control,
        difference=high - low,
        control_variance=v_seen,
        difference_variance=v_a + v_b,
        covariance=-grow_a * float(a @ seen),
        df=welch_df(v_a, v_b, freedom),
        units=sum(sizes),
    )
    return Effect(contrast=contrast, scores=scores, variance_reduction=1 - (v_a + v_b) / plain if plain > 0 else 0.0)


class CarryOver(msgspec.Struct, frozen=True, kw_only=True):
    """The difference in blocks that follow a block of the other arm, and in those that follow one of the same; alike unless an
    arm goes on acting in the next block. `p_value`: that they are alike, for one look."""

    after_other: float
    after_other_se: float
    after_same: float
    after_same_se: float
    p_value: float


def carry_over(blocks: Blocks) -> CarryOver | None:
    """From blocks that follow their predecessor without a gap. None where a part has too few blocks."""
    follows = np.zeros(len(blocks.numbers), dtype=bool)
    follows[1:] = np.diff(blocks.numbers) == 1
    same = np.zeros(len(blocks.numbers), dtype=bool)
    same[1:] = blocks.treated[1:] == blocks.treated[:-1]
    other, alike = effect(blocks.of(follows & ~same)), effect(blocks.of(follows & same))
    if other is None or alike is None:
        return None
    one, two = other.contrast, alike.contrast
    if one.df is None or two.df is None:
        return None
    df = welch_df(one.difference_variance, two.difference_variance, (one.df, two.df))
    statistic = (two.difference - one.difference) / (one.difference_variance + two.difference_variance) ** 0.5
    return CarryOver(
        after_other=one.difference,
        after_other_se=one.se,
        after_same=two.difference,
        after_same_se=two.se,
        p_value=two_sided_p(statistic, df),
    )


def _halves(blocks: Blocks, numerators: Floats) -> tuple[tuple[float, Floats], tuple[float, Floats]] | None:
    """Per arm, control first, the ratio and each block's centred share of it."""
    found = []
    for side in (False, True):
        chosen = blocks.treated == side
        w, y, d = blocks.weights[chosen], numerators[chosen], blocks.denominators[chosen]
        total = float(w @ d)
        if int((d > 0).sum()) < SMALLEST_ARM or not total > 0:
            return None
        rate = float(w @ y) / total
        found.append((rate, w * (y - rate * d) / total))
    return found[0], found[1]
