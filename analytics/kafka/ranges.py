"""Ranges of one partition's offsets, the token that each is inserted under, and the records in hand that ranges are cut from."""

from collections import deque
from itertools import islice, takewhile
from typing import Any

import msgspec

# A message holds one event or a whole browser batch: bytes bound the rows of a range as well as its memory.
RANGE_BYTES = 64 << 20


class Range(msgspec.Struct, frozen=True):
    """The records `start`..`end`, both included, of a partition; offsets in it may be missing (markers of transactions)."""

    partition: int
    start: int
    end: int


def log_name(topic: str, topic_id: str) -> str:
    """The identity of a topic in the warehouse: a topic deleted and made again has another."""
    return f"kafka:{topic}:{topic_id}"


def token(topic_id: str, of: Range) -> str:
    """The deduplication token of a range. With the topic's id: a topic made again counts its offsets from 0 again."""
    return f"{topic_id}:{of.partition}:{of.start}-{of.end}"


class InHand:
    """The records of one partition that were fetched and are not yet in the warehouse.

    `next`: where the next range begins: the offset that is committed. `pending`: the range whose intent stands; nothing else
    may be inserted before it. `again`: an earlier attempt at it may have gone in.
    """

    def __init__(self, partition: int, fetch: int, pending: Range | None = None, bound: int = -1) -> None:
        self.partition = partition
        self.pending, self._bound, self.again = pending, bound, pending is not None
        self.next = self._fetched_from = fetch
        self.records: deque[Any] = deque()
        self.bytes = 0
        self.since_seconds = 0.0

    def add(self, records: list[Any], now_seconds: float) -> None:
        """Take records that follow those in hand."""
        if not self.records:
            self.since_seconds = now_seconds
        self.records.extend(records)
        self.bytes += sum(len(record.value or b"") for record in records)

    def begin(self, chosen: Range) -> None:
        """The intent of a range stands."""
        self.pending, self._bound, self.again = chosen, chosen.end, False

    def complete(self, position: int) -> bool:
        """Whether every record of the pending range is in hand; `position` is the offset that is fetched next."""
        return position > self._bound or bool(self.records and self.records[-1].offset >= self._bound)

    def cut(self, most_records: int, most_bytes: int = RANGE_BYTES) -> Range:
        """The next range: at least one record, at most so many, and no more bytes than these if it has more than one."""
        size, last = 0, self.records[0].offset
        for record in islice(self.records, most_records):
            size += len(record.value or b"")
            if size > most_bytes and record is not self.records[0]:
                break
            last = record.offset
        return Range(self.partition, self.next, last)

    def of(self, chosen: Range) -> list[Any]:
        """The records in hand that belong to `chosen`."""
        return list(takewhile(lambda record: record.offset <= chosen.end, self.records))

    def done(self) -> int:
        """The pending range is in: forget it. Returns the offset to commit."""
        # The broker may have lost the range's end, or retention its beginning.
        end, self.pending = self._bound, None
        while self.records and self.records[0].offset <= end:
            self.bytes -= len(self.records.popleft().value or b"")
        self.next = max(end + 1, self._fetched_from)
        return self.next
