"""Unit → arm: a salted hash, sticky without a database, moving the fewest units when weights change.

The hash of (salt, unit) puts each unit at a point of a line of 2^53 ticks; each arm owns spans of the line, as many ticks
as its weight. When weights change, an arm that shrinks gives up exactly the ticks it must, those it got last first, and only
these change hands: the moved share is half the sum of |new - old|, the least possible, and a ramp that is taken back gives
every unit its old arm again. The spans follow from the history of weights alone, so every restart agrees.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from analytics.experiment import check_weights
from gateway.spans import MOST_SPANS, Span, shift

TICKS = 1 << 53


class Assignment(NamedTuple):
    """What a unit gets: the arm, and the probability that this arm had."""

    arm: str
    propensity: float


class Allocation(msgspec.Struct, frozen=True):
    """Who owns the line: `spans[arm]` in the order in which the arm got them, or along the line once they were very many."""

    salt: str
    weights: dict[str, float]
    spans: dict[str, tuple[Span, ...]]


def allocate(salt: str, weights: Mapping[str, float]) -> Allocation:
    """The first allocation: one span per arm, in the order of names. Raises ValueError for weights that do not sum to 1."""
    check_weights(dict(weights))
    spans: dict[str, tuple[Span, ...]] = {}
    start = 0
    for arm, ticks in sorted(_ticks(weights).items()):
        spans[arm] = (Span(start, start + ticks),) if ticks else ()
        start += ticks
    return Allocation(salt, dict(weights), spans)


def reweigh(allocation: Allocation, weights: Mapping[str, float]) -> Allocation:
    """The allocation after a change of weights. Raises ValueError for other arms or a wrong sum."""
    if set(weights) != set(allocation.weights):
        raise ValueError(f"weights name the arms {sorted(weights)}; give one for each of {sorted(allocation.weights)}")
    check_weights(dict(weights))
    target = _ticks(weights)
    if sum(len(owned) for owned in allocation.spans.values()) > MOST_SPANS:
        return Allocation(allocation.salt, dict(weights), shift(allocation.spans, target))
    spans = {arm: list(owned) for arm, owned in allocation.spans.items()}
    free: list[Span] = []
    for arm in sorted(spans):
        free += _give_up(spans[arm], _length(spans[arm]) - target[arm])
    free.reverse()
    for arm in sorted(spans):
        _take(spans[arm], free, target[arm] - _length(spans[arm]))
    return Allocation(allocation.salt, dict(weights), {arm: tuple(owned) for arm, owned in spans.items()})


def with_arms(allocation: Allocation, arms: Iterable[str]) -> Allocation:
    """The allocation with these arms in it too: who is new owns nothing yet."""
    added = [arm for arm in arms if arm not in allocation.weights]
    weights = {**allocation.weights, **dict.fromkeys(added, 0.0)}
    return Allocation(allocation.salt, weights, {**allocation.spans, **dict.fromkeys(added, ())})


class Split:
    """An allocation made ready for look-ups."""

    def __init__(self, allocation: Allocation) -> None:
        owned = sorted((span.start, arm) for arm, spans in allocation.spans.items() for span in spans)
        self._salt = allocation.salt
        self._starts = [start for start, _ in owned]
        self._answers = [Assignment(arm, allocation.weights[arm]) for _, arm in owned]

    def assign(self, unit: str) -> Assignment:
        """The arm of `unit` and its propensity."""
        return self._answers[bisect_right(self._starts, point(self._salt, unit)) - 1]


def point(salt: str, unit: str) -> int:
    """The tick of a unit: the first 53 bits of SHA-256 over the length of the salt, salt and unit."""
    salted = salt.encode()
    digest = hashlib.sha256(len(salted).to_bytes(4, "big") + salted + unit.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 11


def _ticks(weights: Mapping[str, float]) -> dict[str, int]:
    """Whole ticks per arm that sum to TICKS: rounded down, the rest to the largest remainders."""
    total = sum(weights.values())
    exact = {arm: weight / total * TICKS for arm, weight in weights.items()}
    ticks = {arm: min(int(share), TICKS) for arm, share in exact.items()}
    rest = TICKS - sum(ticks.values())
    by_remainder = sorted((arm for arm in exact if weights[arm] > 0), key=lambda arm: (ticks[arm] - exact[arm], arm))
    for index in range(abs(rest)):
        ticks[by_remainder[index % len(by_remainder)]] += 1 if rest > 0 else -1
    return ticks


def _length(spans: list[Span]) -> int:
    return sum(span.end - span.start for span in spans)


def _give_up(spans: list[Span], ticks: int) -> list[Span]:
    """Remove `ticks` from the end of what was got last; the pieces in the order of removal."""
    pieces = []
    while ticks > 0:
        last = spans.pop()
        keep = max(last.start, last.end - ticks)
        if keep > last.start:
            spans.append(Span(last.start, keep))
        pieces.append(Span(keep, last.end))
        ticks -= last.end - keep
    return pieces


def _take(spans: list[Span], free: list[Span], ticks: int) -> None:
    while ticks > 0:
        piece = free.pop()
        cut = min(piece.end, piece.start + ticks)
        if cut < piece.end:
            free.append(Span(cut, piece.end))
        spans.append(Span(piece.start, cut))
        ticks -= cut - piece.start
