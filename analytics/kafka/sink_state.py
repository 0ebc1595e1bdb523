"""What can be watched of a Kafka sink."""

import time

import msgspec


class PartitionState(msgspec.Struct):
    """One owned partition. `end`: the offset after its last record, as last seen; `lag_records`: offsets before it that are not in
    the warehouse; `unread_since_ms`: the oldest one's timestamp, if known.
    """

    end: int = 0
    lag_records: int = 0
    unread_since_ms: int | None = None
    intent_since_ms: int | None = None
    inserts_at_intent: int = 0

    def lag_seconds(self, now_ms: int) -> float:
        """How old the oldest record is that is not in the warehouse; 0 when all are in."""
        return max(0, now_ms - self.unread_since_ms) / 1000 if self.lag_records and self.unread_since_ms is not None else 0.0


class SinkState(msgspec.Struct):
    """Counters since the start, and the partitions owned now. Written by the sink's thread, read by any."""

    rows: int = 0
    ranges: int = 0
    replays: int = 0
    inserts: int = 0
    bisections: int = 0
    dead_letters: int = 0
    erased_rows: int = 0
    lost_to_retention: int = 0
    assignments: int = 0
    fenced: int = 0
    partitions: dict[int, PartitionState] = {}

    def lag_records(self) -> int:
        """Offsets of all owned partitions that are not in the warehouse; markers of transactions may count."""
        return sum(each.lag_records for each in list(self.partitions.values()))

    def lag_seconds(self) -> float:
        """The age of the oldest record that is not in the warehouse."""
        now = now_ms()
        return max((each.lag_seconds(now) for each in list(self.partitions.values())), default=0.0)

    def oldest_intent_seconds(self) -> float:
        """For how long the oldest range has been begun and not known to be in; 0 when there is none."""
        since = [each.intent_since_ms for each in list(self.partitions.values()) if each.intent_since_ms is not None]
        return max(0, now_ms() - min(since)) / 1000 if since else 0.0

    def inserts_since_oldest_intent(self) -> int:
        """This sink's inserts since then: the warehouse forgets a token after 10,000 inserts of all sinks together."""
        open_ = [each for each in list(self.partitions.values()) if each.intent_since_ms is not None]
        return max((self.inserts - each.inserts_at_intent for each in open_), default=0)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
