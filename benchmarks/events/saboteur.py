"""The salon command with one protection switched off: a count that cannot see what follows proves nothing.

python benchmarks/events/saboteur.py NAME COMMAND [WORD …]
"""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple


class Sabotage(NamedTuple):
    """What is switched off, the counts that must see it, and how it is done."""

    said: str
    seen_as: tuple[str, ...]
    do: Callable[[], None]


def no_tokens() -> None:
    """Every insert gets a token that nobody else has, so that a repeated one goes in again."""
    from analytics.events import new_id
    from analytics.warehouse.client import Warehouse

    original = Warehouse.insert_exact

    def insert_exact(self: Any, token: str, *words: Any, **more: Any) -> None:
        original(self, f"{token}:{new_id()}", *words, **more)

    Warehouse.insert_exact = insert_exact  # type: ignore[method-assign]


def done_first() -> None:
    """The sink commits a range as done, and then inserts it."""
    from analytics.kafka.intents import Committed, Note
    from analytics.kafka.moving import Moving

    original = Moving.begin

    def begin(self: Any, chosen: Any) -> None:
        original(self, chosen)
        self._member.commit({r.partition: Committed(r.end + 1, Note(topic_id=self._topic_id)) for r in chosen.values()})

    Moving.begin = begin  # type: ignore[method-assign]


def told_first() -> None:
    """The gateway acknowledges feedback before it is on disk."""
    from analytics.local_log import LocalLog

    original = LocalLog.submit

    def submit(self: Any, events: Any, **more: Any) -> "Future[list[bool]]":
        original(self, events, **more)
        told: Future[list[bool]] = Future()
        told.set_result([True] * len(events))
        return told

    LocalLog.submit = submit  # type: ignore[method-assign]


SABOTAGES = {
    "sink-tokens": Sabotage("every insert has a new deduplication token", ("Kafka records put in twice",), no_tokens),
    "sink-intents": Sabotage("a range is committed before it is inserted", ("acknowledged, but not in the warehouse",), done_first),
    "gateway-fsync": Sabotage("feedback is acknowledged before it is on disk", ("acknowledged, but not in Kafka",), told_first),
}


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    SABOTAGES[name].do()
    from salon.cli import main

    sys.argv = ["salon", *words]
    raise SystemExit(main())
