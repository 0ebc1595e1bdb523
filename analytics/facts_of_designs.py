"""What the warehouse hands to statistics for designs beside "ab": sufficient statistics of bandits, grids, duels, blocks, places."""

import math
from datetime import datetime

import msgspec

from analytics.moments import Joint, Moments


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """Units of one arm in one stretch of weights that were drawn with one logged propensity: y, and for a ratio d, per unit."""

    propensity: float
    joint: Joint


class AllocationStretch(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of constant weights of a bandit: `draws[metric][arm]`, every unit in the arm that was drawn first."""

    started_at: datetime
    weights: dict[str, float]
    draws: dict[str, dict[str, list[Draw]]]


class Meeting(msgspec.Struct, frozen=True, kw_only=True):
    """Votes between two arms, `first` before `second` in the alphabet: those that the first won, lost, tied, and from how many."""

    first: str
    second: str
    won: int
    lost: int
    tied: int
    raters: int

    @property
    def votes(self) -> int:
        """All of them."""
        return self.won + self.lost + self.tied


class SideVotes(msgspec.Struct, frozen=True, kw_only=True):
    """Votes with a winner whose side is known, and sums over raters: of squares of the votes won by the left picture, of their
    product with all decided votes, of squares of those."""

    raters: int
    decided: int
    left: int
    left_squares: int
    left_decided: int
    decided_squares: int


class DuelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Votes between two arms, for the board: of a rater on one generation the last.

    `raters_of[arm]`: who voted on it. `products`: (cell, cell, sum over raters of the product of their counts in the two), lower
    cell first, those above 0; cell 3 i + 0, 1, 2: `meetings[i]` won, lost, tied.
    """

    meetings: list[Meeting]
    raters: int
    raters_of: dict[str, int]
    products: list[tuple[int, int, int]]
    sides: SideVotes

    @property
    def votes(self) -> int:
        """All of them."""
        return sum(meeting.votes for meeting in self.meetings)


class PairVotes(msgspec.Struct, frozen=True, kw_only=True):
    """Votes of people who compared `arm` with `vs`: one per generation, 1 where `arm` won it, 0 lost, 1/2 a tie.

    `won`, `lost`, `tied`: generations. `scores`: the mean of a person's votes, and how many people have it, ascending.
    """

    arm: str
    vs: str
    won: int
    lost: int
    tied: int
    scores: list[tuple[float, int]]

    @property
    def people(self) -> int:
        """Who compared the two."""
        return sum(count for _, count in self.scores)

    @property
    def leaning(self) -> tuple[int, int, int]:
        """People who lean to `arm`, from it, neither."""
        to = sum(count for score, count in self.scores if score > 0.5)
        away = sum(count for score, count in self.scores if score < 0.5)
        return to, away, self.people - to - away

    @property
    def score(self) -> Moments:
        """Over people. 0 people have mean 0."""
        n = self.people
        mean = math.fsum(score * count for score, count in self.scores) / n if n else 0.0
        return Moments(n=n, mean=mean, m2=math.fsum(count * (score - mean) ** 2 for score, count in self.scores))


class MetricVotes(msgspec.Struct, frozen=True, kw_only=True):
    """One metric: every pair of arms that met, an arm's `score` per person over all that it met, and how many `units` voted."""

    pairs: list[PairVotes]
    arms: dict[str, Moments]
    units: int


class PreferenceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of interleaved grids or of duels, per metric that pictures can be compared by. `duels`: of a duel only."""

    votes: dict[str, MetricVotes] = msgspec.field(default_factory=dict)
    duels: DuelFacts | None = None


class BlockTotals(msgspec.Struct, frozen=True, kw_only=True):
    """One metric over the first blocks of `BlockFacts`, those that are over: totals per block, the denominator being units with a
    request where the metric is per unit."""

    numerators: list[float]
    denominators: list[float]


class BlockFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of the blocks of a switchback in which something was asked for outside the wash-out, oldest first, lists of one length.

    Block `numbers[i]` lies from `origin` + number x `block_minutes` on; all in it got `arms[i]`, drawn with `propensities[i]`, while
    `weights[stretches[i]]` held. `totals[metric]`, and of each block's requests the mean `latency_ms` (None: none was timed).
    `running` of the blocks are not over; `mixed` ones had two arms, for weights changed within, and are in no list; `unplaced`
    generations tell no block.
    """

    origin: datetime
    block_minutes: float
    numbers: list[int]
    arms: list[str]
    propensities: list[float]
    stretches: list[int]
    weights: list[dict[str, float]]
    latency_ms: list[float | None]
    totals: dict[str, BlockTotals]
    running: int = 0
    mixed: int = 0
    unplaced: int = 0


class Crossed(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures shown, and those that got the event, over rows of cells. Entry 2 r is what was shown in row r, 2 r + 1 what got it.

    `totals` [entries]; `products`: (i, j, sum over units of entry i x entry j), i <= j, where it is not 0.
    """

    totals: list[int]
    products: list[tuple[int, int, int]]


class GridFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Grids of one layout and size. Row of `by_arm`: (number of the arm) x `grid` + cell; of `by_half`: 0 or 1 x `grid` + cell."""

    layout: str
    grid: int
    pictures: int
    units: int
    by_arm: Crossed
    by_half: Crossed


class SeedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """`counts[drawn][cell]`: how often the picture drawn as number `drawn` of its request was put into the cell."""

    grid: int
    counts: list[list[int]]


class PlaceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures by place in grids of 2 and more; `event`: what they may get. `split_at`: half of the pictures were shown before.

    `one_in`: of so many units one was read, by the hash of its name. `left_out`: pictures in rarer layouts and sizes.
    """

    event: str
    one_in: int
    split_at: datetime
    grids: list[GridFacts]
    left_out: int = 0
    orders: list[SeedOrder] = msgspec.field(default_factory=list)
