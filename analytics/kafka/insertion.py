"""One range of records into the warehouse: the same rows at each attempt, erased people left out, what cannot be read set aside."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import pyarrow as pa

from analytics.events import Event, encode
from analytics.kafka.collector_pause import collector_paused
from analytics.kafka.dead_letters import DeadLetterWriter, KafkaDeadLetter, letter_of
from analytics.kafka.messages import Undecodable, read_message
from analytics.kafka.ranges import Range, log_name, token
from analytics.warehouse.client import Warehouse
from analytics.warehouse.erasure import Erasures
from analytics.warehouse.rows import RowsRejected, to_arrow


class Moved(msgspec.Struct, frozen=True):
    """What became of a range: rows put in, rows set aside, rows left out because their unit was erased."""

    rows: int
    dead_letters: int
    erased: int


class Insertion:
    """Puts records of one topic into the warehouse by `insert` (token, table). Any call may be made again after any error."""

    def __init__(
        self, warehouse: Warehouse, dead_letters: DeadLetterWriter, topic: str, topic_id: str,
        insert: Callable[[str, pa.Table], None] | None = None,
    ) -> None:  # fmt: skip
        self._warehouse, self._dead_letters = warehouse, dead_letters
        self._insert_exact = insert or warehouse.insert_exact
        self._topic_id = topic_id
        self._log_name = log_name(topic, topic_id)

    def put_in(self, chosen: Range, records: Sequence[Any], *, again: bool) -> Moved:
        """Insert the records' events under the range's token; messages that cannot be read become dead letters first.

        `again`: an earlier attempt may have gone in. Raises RowsRejected, OSError, LookupError, KafkaError.
        """
        events, offsets, letters = self._read(records)
        erased = self._insert(chosen, "", events, offsets, again)
        self._dead_letters.write(letters)
        return Moved(len(events) - erased, len(letters), erased)

    def put_in_singly(self, chosen: Range, record: Any, *, again: bool) -> Moved:
        """Insert one message whose rows were rejected: event by event, each under a token of its own; the guilty are set aside."""
        letters: list[KafkaDeadLetter] = []
        events, offsets, _ = self._read([record])
        rows = erased = 0
        for index, event in enumerate(events):
            try:
                gone = self._insert(chosen, f":{index}", [event], offsets[:1], again)
                rows, erased = rows + 1 - gone, erased + gone
            except RowsRejected as error:
                alone = len(events) == 1
                value = record.value if alone else encode(event)
                letters.append(letter_of(record, self._topic_id, str(error), value, None if alone else index))
        self._dead_letters.write(letters)
        return Moved(rows, len(letters), erased)

    def _read(self, records: Sequence[Any]) -> tuple[list[Event], list[int], list[KafkaDeadLetter]]:
        events: list[Event] = []
        offsets: list[int] = []
        letters = []
        with collector_paused():
            for record in records:
                try:
                    found = read_message(record.value)
                except Undecodable as error:
                    letters.append(letter_of(record, self._topic_id, str(error)))
                    continue
                events += found
                offsets += [record.offset] * len(found)
        return events, offsets, letters

    def _insert(self, of: Range, part: str, events: list[Event], offsets: list[int], again: bool) -> int:
        """Returns how many rows were left out."""
        before = self._warehouse.erasures()
        stay = [not before.covers(event.unit, event.received_at) for event in events] if len(before) else [True] * len(events)
        chosen = events if all(stay) else [event for event, kept in zip(events, stay, strict=True) if kept]
        if chosen:
            at = offsets if len(chosen) == len(events) else [offset for offset, kept in zip(offsets, stay, strict=True) if kept]
            with collector_paused():
                table = to_arrow(chosen, log_name=self._log_name, partition=of.partition, offsets=at)
            self._insert_exact(token(self._topic_id, of) + part, table)
        # A deletion that ran before these rows landed did not see them. An attempt that was cut off may have held more rows than
        # this one, and may have landed in its place: so then everybody erased is deleted again.
        after = self._warehouse.erasures()
        if again or after.version != before.version:
            for unit, received_at in _covered(events if again else chosen, after).items():
                self._warehouse.erase(unit, received_at)
        return len(events) - len(chosen)


def _covered(events: Sequence[Event], erasures: Erasures) -> dict[str, datetime]:
    """The erased units among `events`, each with the latest time of its events that must go."""
    found: dict[str, datetime] = {}
    if len(erasures):
        for event in events:
            if erasures.covers(event.unit, event.received_at):
                found[event.unit] = max(event.received_at, found.get(event.unit, event.received_at))
    return found
