"""Dead letters wherever they lie: the dead-letter topic, the spool, the local log; listed and sent back in one way."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from kafka import KafkaProducer

from analytics.event_log import DeadLetter
from analytics.events import utc_now
from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_producer
from analytics.kafka.dead_letters import ATTEMPT, KafkaDeadLetter, letter_headers, read_dead_letters
from analytics.local_log import LocalLog

SEND_SECONDS = 60.0
AT_ONCE = 500


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter as it is shown. `value` is its text, as far as it is any; `sent_at`: it was sent back then."""

    origin: str
    error: str
    attempt: int
    set_aside_at: datetime
    value: str
    sent_at: datetime | None = None


class LettersOnDisk:
    """Dead letters of a local log or spool: events that the warehouse, or Kafka, refused. Origins are `PREFIX/POSITION`."""

    def __init__(self, log: LocalLog, prefix: str) -> None:
        self._log, self._prefix = log, prefix

    def all(self) -> list[Letter]:
        """Oldest first. Raises OSError."""
        return [self._shown(letter) for letter in self._log.dead_letters()]

    def send(self, origins: Sequence[str]) -> list[str]:
        """Put them back at the end of the log; a letter that was put back is one no more. Returns the origins sent."""
        chosen = [letter for letter in self._log.dead_letters() if self._origin(letter) in origins]
        return [self._origin(letter) for letter in chosen if self._log.send_again(letter)]

    def _origin(self, letter: DeadLetter) -> str:
        return f"{self._prefix}/{letter.position}"

    def _shown(self, letter: DeadLetter) -> Letter:
        text = letter.data.decode("utf-8", "replace")
        return Letter(origin=self._origin(letter), error=letter.error, attempt=1, set_aside_at=letter.set_aside_at, value=text)


class LettersInKafka:
    """Messages and events in the dead-letter topic. Origins are `TOPIC/PARTITION/OFFSET[/INDEX]` in the events topic."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address

    def all(self) -> list[Letter]:
        """Oldest first; those that were sent back stay, and say so. Raises KafkaError, OSError."""
        return [
            Letter(
                origin=each.origin,
                error=each.error,
                attempt=each.attempt,
                set_aside_at=each.set_aside_at,
                value=(each.value or b"").decode("utf-8", "replace"),
                sent_at=each.sent_at,
            )
            for each in read_dead_letters(self._address)
        ]

    def send(self, origins: Sequence[str]) -> list[str]:
        """Send them into the events topic again, and note it beside them, in transactions: both or neither.

        Those sent before, and those too long to have been kept, are left out. Returns the origins sent. Raises KafkaError,
        OSError; what an earlier call sent stays sent.
        """
        producer = open_producer(self._address, transactional_id=f"{self._address.group}-replay")
        try:
            # Ends what another run of this command has under way; only then is it known what was sent.
            producer.init_transactions()
            wanted = [x for x in read_dead_letters(self._address) if x.origin in origins and x.sent_at is None and x.value is not None]
            for start in range(0, len(wanted), AT_ONCE):
                producer.begin_transaction()
                futures = [future for letter in wanted[start : start + AT_ONCE] for future in self._send(producer, letter)]
                for future in futures:
                    future.get(timeout=SEND_SECONDS)
                producer.commit_transaction()
        finally:
            producer.close(timeout=5)
        return [letter.origin for letter in wanted]

    def _send(self, producer: KafkaProducer, letter: KafkaDeadLetter) -> list[Any]:
        attempt = [(ATTEMPT, str(letter.attempt).encode())]
        sent = msgspec.structs.replace(letter, sent_at=utc_now())
        return [
            producer.send(self._address.topic, key=letter.key, value=letter.value, headers=attempt),
            producer.send(self._address.dead_letter_topic, key=letter.origin.encode(), headers=letter_headers(sent)),
        ]
