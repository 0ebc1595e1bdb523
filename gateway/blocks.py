"""Which arm a route that switches has at a moment: time is cut into blocks, and each block has one arm for everybody. Pure."""

from datetime import datetime, timedelta
from typing import NamedTuple

from analytics.designs import Switchback
from gateway.assignment import Split


class Block(NamedTuple):
    """One block: its number from 0 at the start, its arm, the probability that this arm had, and whether what is asked for now
    counts for nothing."""

    number: int
    arm: str
    propensity: float
    washout: bool


def block_at(split: Split, settings: Switchback, started_at: datetime, weighed_at: datetime, now: datetime) -> Block:
    """The block at `now`: number floor((now - started_at) / block_minutes), arm by the hash of salt and number and by the weights.

    Blocks go on by the clock: a pause moves none. Where weights changed, or the experiment went on after a pause, in the middle
    of a block (`weighed_at`), the rest of it is wash-out: its arm may be another than the block began with.
    """
    length = timedelta(minutes=settings.block_minutes)
    number = max(0, (now - started_at) // length)
    began = started_at + number * length
    arm, propensity = split.assign(f"block {number}")
    washout = now < began + timedelta(minutes=settings.washout_minutes) or began < weighed_at <= now
    return Block(number, arm, propensity, washout)
