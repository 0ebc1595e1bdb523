"""Which events a question is about: one experiment, as of a time, each event once."""

from datetime import datetime
from typing import Any, NamedTuple

from analytics.warehouse.rows import microseconds


class Scope(NamedTuple):
    """The events of `experiment` that had been received by `as_of` (None: all). `flagged`: flagged events count like any other."""

    experiment: str
    as_of: datetime | None
    flagged: bool = False

    @property
    def counted(self) -> str:
        """The condition under which an event counts."""
        return "1" if self.flagged else "flags = 0"

    @property
    def parameters(self) -> dict[str, Any]:
        """For the placeholders in `events`."""
        cut = {} if self.as_of is None else {"as_of": microseconds(self.as_of)}
        return {"experiment": self.experiment, **cut}

    def events(self, columns: str, where: str) -> str:
        """A subquery of `columns` of the events that fit `where`, each event_id once.

        FINAL settles rows alike in every key column; LIMIT 1 BY settles an id used again with another unit or kind.
        What reports decided is said about the experiment, and is none of its events.
        """
        cut = "" if self.as_of is None else " AND toUnixTimestamp64Micro(received_at) <= {as_of:Int64}"
        return (
            f"(SELECT {columns} FROM events FINAL WHERE experiment = {{experiment:String}}{cut} AND kind != 'decision' AND {where} "
            "LIMIT 1 BY event_id)"
        )
