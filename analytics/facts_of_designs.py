"""What the warehouse hands to statistics for designs beside "ab": sufficient statistics of bandits, grids, duels, blocks, places."""

from datetime import datetime

import msgspec

from analytics.moments import Joint


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """Units of one arm in one stretch of weights that were drawn with one logged propensity: y, and for a ratio d, per unit."""

    propensity: float
    joint: Joint


class AllocationStretch(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of constant weights of a bandit: `draws[metric][arm]`, every unit in the arm that was drawn first."""

    started_at: datetime
    weights: dict[str, float]
    draws: dict[str, dict[str, list[Draw]]]


class DuelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Votes between two arms, for the board."""


class PreferenceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of an interleaved grid or of duels. `duels`: of a duel only."""

    duels: DuelFacts | None = None


class BlockFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of the blocks of a switchback."""


class PlaceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of the places of pictures in their grids."""
