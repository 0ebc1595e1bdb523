"""The line of ticks after very many changes of weights: the fewest ticks change hands still, and spans do not become dust."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Where arms own more spans than this together, ticks move at borders, which makes no new spans; below, those got last are given
# up first, so that a ramp can be taken back.
MOST_SPANS = 64


class Span(NamedTuple):
    """Ticks `start` to `end`, the end not included."""

    start: int
    end: int


class Piece(NamedTuple):
    """A span and who owns it."""

    start: int
    end: int
    arm: str


def shift(spans: Mapping[str, Sequence[Span]], target: Mapping[str, int]) -> dict[str, tuple[Span, ...]]:
    """Spans along the line, neighbours of one arm as one, with which each arm owns `target` ticks.

    An arm with too many gives them to one with too few that it borders on, its smallest pieces first; a cut within a piece is
    made only where no such two border. Only arms with too many lose ticks, so the fewest move.
    """
    line = sorted(Piece(span.start, span.end, arm) for arm, owned in spans.items() for span in owned)
    line = _merged(line)
    extra = {arm: sum(p.end - p.start for p in line if p.arm == arm) - ticks for arm, ticks in target.items()}
    while any(ticks > 0 for ticks in extra.values()):
        index, taker, from_left = _border(line, extra)
        piece = line[index]
        moved = min(piece.end - piece.start, extra[piece.arm], -extra[taker])
        middle = piece.start + moved if from_left else piece.end - moved
        first, second = (taker, piece.arm) if from_left else (piece.arm, taker)
        line[index : index + 1] = [Piece(piece.start, middle, first), Piece(middle, piece.end, second)]
        line = _merged(line)
        extra[piece.arm] -= moved
        extra[taker] += moved
    return {arm: tuple(Span(p.start, p.end) for p in line if p.arm == arm) for arm in target}


def _border(line: Sequence[Piece], extra: Mapping[str, int]) -> tuple[int, str, bool]:
    """The piece to take from, who takes, and whether from its left end."""
    borders = [
        (piece.end - piece.start, index, line[beside].arm, beside < index)
        for index, piece in enumerate(line)
        for beside in (index - 1, index + 1)
        if extra[piece.arm] > 0 and 0 <= beside < len(line) and extra[line[beside].arm] < 0
    ]
    if borders:
        _, index, taker, from_left = min(borders)
        return index, taker, from_left
    index = max((i for i, piece in enumerate(line) if extra[piece.arm] > 0), key=lambda i: line[i].end - line[i].start)
    return index, min(arm for arm, ticks in extra.items() if ticks < 0), False


def _merged(line: Sequence[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in line:
        if piece.start == piece.end:
            continue
        if merged and merged[-1].arm == piece.arm:
            piece = Piece(merged.pop().start, piece.end, piece.arm)
        merged.append(piece)
    return merged
