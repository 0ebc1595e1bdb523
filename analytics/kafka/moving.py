"""A range on its way: its intent, its insert, and its halves when the warehouse rejects it."""

import logging
from collections.abc import Mapping

from analytics.kafka.insertion import Insertion
from analytics.kafka.intents import Committed, Note
from analytics.kafka.membership import Membership
from analytics.kafka.ranges import InHand, Range
from analytics.kafka.sink_state import SinkState, now_ms
from analytics.warehouse.rows import RowsRejected

log = logging.getLogger(__name__)


class Moving:
    """Moves ranges of partitions that `member` owns. Raises KafkaError, NotOwned, OSError, LookupError."""

    def __init__(self, member: Membership, insertion: Insertion, state: SinkState, topic_id: str) -> None:
        self._member, self._insertion, self._state, self._topic_id = member, insertion, state, topic_id

    def begin(self, chosen: Mapping[InHand, Range]) -> None:
        """Commit the intents of ranges, in one request."""
        at_ms = now_ms()
        self._member.commit(
            {r.partition: Committed(r.start, Note(topic_id=self._topic_id, end=r.end, at_ms=at_ms)) for r in chosen.values()}
        )
        for hand, of in chosen.items():
            hand.begin(of)
            state = self._state.partitions[of.partition]
            state.intent_since_ms, state.inserts_at_intent = at_ms, self._state.inserts

    def put_in(self, hand: InHand) -> int:
        """Insert the range that `hand` has begun; its poison goes to the dead letters. Returns how many rows and dead letters."""
        assert hand.pending is not None
        chosen = hand.pending
        records = hand.of(chosen)
        try:
            try:
                moved = self._insertion.put_in(chosen, records, again=hand.again)
            except RowsRejected as error:
                self._state.bisections += 1
                if len(records) > 1:
                    return self._put_in_halves(hand, chosen, records[len(records) // 2 - 1].offset)
                log.error("message %d of partition %d: %s", chosen.end, chosen.partition, error)
                moved = self._insertion.put_in_singly(chosen, records[0], again=hand.again)
        except BaseException:
            hand.again = True
            raise
        if moved.dead_letters:
            log.error("partition %d: %d set aside in the dead-letter topic; see `salon replay list`", chosen.partition, moved.dead_letters)
        self._state.rows += moved.rows
        self._state.dead_letters += moved.dead_letters
        self._state.erased_rows += moved.erased
        self._state.ranges += 1
        self._state.inserts += 1
        return moved.rows + moved.dead_letters

    def _put_in_halves(self, hand: InHand, chosen: Range, middle: int) -> int:
        # Each half is a range with an intent and a token of its own: whoever has to repeat it does not depend on the
        # warehouse rejecting the same rows again.
        self.begin({hand: Range(chosen.partition, chosen.start, middle)})
        moved = self.put_in(hand)
        self.begin({hand: Range(chosen.partition, hand.done(), chosen.end)})
        return moved + self.put_in(hand)
