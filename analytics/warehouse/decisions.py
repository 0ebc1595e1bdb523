"""What reports recommended, and when that changed, read back from the events of kind `decision`."""

from datetime import datetime
from typing import Any

from analytics.decision_event import PastDecision, history, past_decision
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rows import from_microseconds, microseconds


def read_decisions(warehouse: Warehouse, experiment: str, as_of: datetime | None = None) -> list[PastDecision]:
    """The changes of mind of an experiment that had been logged by `as_of` (None: all), oldest first, each once.

    Raises LookupError (no tables), OSError.
    """
    parameters: dict[str, Any] = {"experiment": experiment}
    cut = ""
    if as_of is not None:
        cut = " AND toUnixTimestamp64Micro(received_at) <= {as_of:Int64}"
        parameters["as_of"] = microseconds(as_of)
    sql = f"""SELECT event_id, toUnixTimestamp64Micro(occurred_at), attributes FROM events FINAL
        WHERE experiment = {{experiment:String}} AND kind = 'decision'{cut} LIMIT 1 BY event_id"""
    return history(
        past_decision(event_id, from_microseconds(at), attributes) for event_id, at, attributes in warehouse.query(sql, parameters)
    )
