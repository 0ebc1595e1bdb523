"""Rows per unit, day, kind and arm, each event once: from the daily rollups, and from the events of days that are not rolled up."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

from analytics.events import utc_now
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rollups import dirty_days, rollup
from analytics.warehouse.rows import microseconds
from analytics.warehouse.schema import retained_days


class Parameters:
    """Values for the placeholders of a statement, each under a name of its own."""

    def __init__(self, **values: Any) -> None:
        self.values: dict[str, Any] = values

    def add(self, kind: str, value: Any) -> str:
        """The placeholder that stands for `value`, a ClickHouse type `kind`."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"


class Source:
    """What an experiment's facts are computed from. `dirty`: the days to read from the events; None: every day.

    With `flagged`, flagged events are among those that count. With `as_of`, only events received by then; then `dirty` is None,
    for a rollup does not know when its events came. `loaded`: the table where the rows of dirty days are, once they are read.
    """

    def __init__(
        self, experiment: str, as_of: datetime | None, flagged: bool, dirty: Sequence[date] | None, loaded: str | None = None
    ) -> None:
        if as_of is not None and dirty is not None:
            raise ValueError(f"as_of is {as_of}, and daily rollups do not know when their events came; give dirty = None")
        self.experiment, self.as_of, self.flagged, self.dirty, self.loaded = experiment, as_of, flagged, dirty, loaded

    def parameters(self) -> Parameters:
        """With what `rows` and `events` need; add your own."""
        values: dict[str, Any] = {"experiment": self.experiment}
        if self.as_of is not None:
            values["as_of"] = microseconds(self.as_of)
        if self.dirty:
            values["dirty"] = list(self.dirty)
        return Parameters(**values)

    @property
    def _cut(self) -> str:
        return "" if self.as_of is None else " AND toUnixTimestamp64Micro(received_at) <= {as_of:Int64}"

    def rows(self, condition: str, columns: str) -> str:
        """A subquery of `columns` of the rows of `unit_daily` that fit `condition` (on experiment, kind, day, unit).

        `times`, `values`, `extras`, `failed` are those of the events that count.
        """
        both = {name: f"arrayConcat({name}, flagged_{name})" for name in ("times", "values", "extras")} | {
            "failed": "failed + flagged_failed"
        }
        counted = both if self.flagged else {name: name for name in both}
        names = "experiment, kind, arm, unit, day, n, flagged, flag_sets, late, last_received, digest, digest_at, context"
        taken = f"{names}, {', '.join(f'{text} AS {name}_' for name, text in counted.items())}"
        parts = []
        if self.dirty is not None:
            clean = " AND day NOT IN {dirty:Array(Date)}" if self.dirty else ""
            parts.append(f"SELECT {taken} FROM unit_daily WHERE {condition}{clean}")
        if self.loaded is not None:
            parts.append(f"SELECT {taken} FROM {self.loaded} WHERE {condition}")
        elif self.dirty is None or self.dirty:
            parts.append(f"SELECT {taken} FROM ({self.unrolled(condition)})")
        return f"(SELECT {columns} FROM ({' UNION ALL '.join(parts)}) AS r)"

    def unrolled(self, condition: str) -> str:
        """SELECT rows of `unit_daily` from the events themselves, of dirty days."""
        days = " AND day IN {dirty:Array(Date)}" if self.dirty else ""
        return rollup(condition + days + self._cut)

    def events(self, condition: str, columns: str) -> str:
        """A subquery of `columns` of the events themselves that fit `condition`, each once, of those that count."""
        counted = "1" if self.flagged else "flags = 0"
        where = f"{condition}{self._cut} AND {counted} AND unit != ''"
        return f"(SELECT {columns} FROM events FINAL WHERE {where} LIMIT 1 BY experiment, event_id)"


def current_source(warehouse: Warehouse, experiment: str, *, flagged: bool = False) -> Source:
    """Everything that is in the warehouse now. Raises LookupError before `migrate`, OSError."""
    dirty = dirty_days(warehouse)
    with warehouse.connections.client() as client:
        kept = retained_days(client, warehouse.layout, "events") if dirty else None
    if kept is not None:
        # Of days whose events have begun to go, the rollup knows more.
        dirty = [day for day in dirty if day > utc_now().date() - timedelta(days=kept - 1)]
    return Source(experiment, None, flagged, dirty)
