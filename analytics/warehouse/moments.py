"""Moments and cross-products of columns of the units' table, per group, in one pass: sums about a shift, checked for lost digits."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analytics.facts import Joint, Moments
from analytics.warehouse.unit_table import Units

SAMPLE_PER_ARM = 4096
# Digits that a sum about a shift may lose before a group is read again, centred: squares of 16 digits keep 9.
WORST_LOSS = 1e6
FAR = 100.0


class Sums(NamedTuple):
    """Of the units of one group: how many, the means of the columns, and centred sums of products [k][k]."""

    n: int
    means: tuple[float, ...]
    products: tuple[tuple[float, ...], ...]

    def moments(self, ratio: bool) -> Moments:
        """Of the first column, for a ratio over the second."""
        return self.joint(ratio).outcome

    def joint(self, ratio: bool, covariates: tuple[str, ...] = (), ratios: tuple[bool, ...] = ()) -> Joint:
        """All columns."""
        return Joint(n=self.n, means=self.means, products=self.products, ratio=ratio, covariates=covariates, ratios=ratios)


Group = tuple[Any, ...]


def read_sums(units: Units, blocks: Mapping[str, Sequence[str]], keys: Sequence[str], where: str = "1") -> dict[str, dict[Group, Sums]]:
    """`blocks[name]`: expressions over a unit's columns. Per name and group of `keys` (expressions; the first an arm) the sums
    over units in figures (arm > 0) that fit `where`. Groups without units are left out."""
    columns = list(dict.fromkeys(text for block in blocks.values() for text in block))
    if not columns:
        return {name: {} for name in blocks}
    pairs = list(dict.fromkeys(pair for block in blocks.values() for pair in _pairs([columns.index(text) for text in block])))
    shift = _shift(units, columns, where)
    found: dict[Group, tuple[int, list[float], dict[tuple[int, int], float]]] = {}
    worst = 0.0
    for group, n, sums, products in _read(units, columns, pairs, keys, where, shift):
        means = [total / n for total in sums]
        centred = {(i, j): value - sums[i] * means[j] for (i, j), value in zip(pairs, products, strict=True)}
        worst = max([worst, *(n * means[i] ** 2 / value for (i, j), value in centred.items() if i == j and means[i] and value > 0)])
        worst = max(
            [worst, *(WORST_LOSS * 10 for (i, j), value in centred.items() if i == j and value <= 0 and abs(means[i]) > 0 and n > 1)]
        )
        found[group] = (n, [mean + at for mean, at in zip(means, shift, strict=True)], centred)
    if worst > WORST_LOSS:
        found = {group: (n, means, by_pair) for group, n, means, by_pair in _read_stable(units, columns, pairs, keys, where)}
    result: dict[str, dict[Group, Sums]] = {}
    for name, block in blocks.items():
        at = [columns.index(text) for text in block]
        result[name] = {
            group: Sums(n, tuple(means[i] for i in at), tuple(tuple(by_pair[min(i, j), max(i, j)] for j in at) for i in at))
            for group, (n, means, by_pair) in found.items()
        }
    return result


def _pairs(at: list[int]) -> list[tuple[int, int]]:
    return [(min(i, j), max(i, j)) for position, i in enumerate(at) for j in at[position:]]


def _shift(units: Units, columns: Sequence[str], where: str) -> list[float]:
    """0 for a column that does not lie far from it; else near its mean, of some units of each arm; whole, so that counts add exactly."""
    named = ", ".join(f"{text} AS x{i}" for i, text in enumerate(columns))
    means = ", ".join(f"avg(x{i}), varPopStable(x{i})" for i in range(len(columns)))
    # Each arm by itself: rows lie in the order of arms, so that little is read.
    some = " UNION ALL ".join(
        f"SELECT * FROM (SELECT {named} FROM {units.table} WHERE arm = {arm + 1} AND {where} LIMIT {SAMPLE_PER_ARM})"
        for arm in range(units.arms)
    )
    ((*found,),) = units.query(f"SELECT {means} FROM ({some})")
    return [_shift_of(float(mean), float(variance)) for mean, variance in zip(found[::2], found[1::2], strict=True)]


def _shift_of(mean: float, variance: float) -> float:
    if not abs(mean) < 1e300 or mean * mean <= FAR * variance:
        return 0.0
    return float(round(mean)) if 0.5 < abs(mean) < 1e15 else mean


def _read(
    units: Units, columns: Sequence[str], pairs: Sequence[tuple[int, int]], keys: Sequence[str], where: str, shift: Sequence[float]
) -> list[tuple[Group, int, list[float], list[float]]]:
    groups = ", ".join(f"{key} AS g{i}" for i, key in enumerate(keys))
    named = ", ".join(
        f"{text} - {at!r} AS x{i}" if at else f"{text} AS x{i}" for i, (text, at) in enumerate(zip(columns, shift, strict=True))
    )
    sums = ", ".join([*(f"sum(x{i})" for i in range(len(columns))), *(f"sum(x{i} * x{j})" for i, j in pairs)])
    by = ", ".join(f"g{i}" for i in range(len(keys)))
    if list(keys) == ["arm"] and units.ordered:
        # Whole columns at a time: half the work of looking up each row's group.
        arms = (f"(SELECT {named} FROM {units.table} WHERE arm = {arm + 1} AND {where})" for arm in range(units.arms))
        parts = [f"SELECT {arm + 1} AS g0, count() AS n, {sums} FROM {rows}" for arm, rows in enumerate(arms)]
        sql = f"SELECT * FROM ({' UNION ALL '.join(parts)}) WHERE n > 0"
    else:
        sql = f"SELECT {by}, count(), {sums} FROM (SELECT {groups}, {named} FROM {units.table} WHERE arm > 0 AND {where}) GROUP BY {by}"
    result = []
    for row in units.query(sql):
        key, n, rest = tuple(row[: len(keys)]), int(row[len(keys)]), [float(value) for value in row[len(keys) + 1 :]]
        result.append((key, n, rest[: len(columns)], rest[len(columns) :]))
    return result


def _read_stable(
    units: Units, columns: Sequence[str], pairs: Sequence[tuple[int, int]], keys: Sequence[str], where: str
) -> list[tuple[Group, int, list[float], dict[tuple[int, int], float]]]:
    """Slower: updated means, so that no digits are lost wherever a group lies."""
    groups = ", ".join(f"{key} AS g{i}" for i, key in enumerate(keys))
    named = ", ".join(f"{text} AS x{i}" for i, text in enumerate(columns))
    means = [f"sumKahan(x{i}) / count()" for i in range(len(columns))]
    products = [f"{f'varPopStable(x{i})' if i == j else f'covarPopStable(x{i}, x{j})'} * count()" for i, j in pairs]
    by = ", ".join(f"g{i}" for i in range(len(keys)))
    inner = f"SELECT {groups}, {named} FROM {units.table} WHERE arm > 0 AND {where}"
    result = []
    for row in units.query(f"SELECT {by}, count(), {', '.join([*means, *products])} FROM ({inner}) GROUP BY {by}"):
        key, n, rest = tuple(row[: len(keys)]), int(row[len(keys)]), [float(value) for value in row[len(keys) + 1 :]]
        result.append((key, n, rest[: len(columns)], dict(zip(pairs, rest[len(columns) :], strict=True))))
    return result
