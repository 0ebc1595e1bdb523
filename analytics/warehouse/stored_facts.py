"""Facts computed before, kept in the warehouse with the mark that they hold for: read again while nothing has changed since."""

import hashlib
from collections.abc import Mapping
from datetime import date, timedelta

import msgspec

from analytics.events import utc_now
from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.connections import NotAllowed
from analytics.warehouse.marks import read_mark
from analytics.warehouse.rows import FIRST_DAY, from_microseconds
from analytics.warehouse.unit_events import DAYS_OF_SLACK

# Counts up whenever the same events and definitions come to other facts.
FORMAT = 2
COLUMNS = ["experiment", "definition", "mark", "until", "at", "facts"]
_DECODER = msgspec.json.Decoder(ExperimentFacts)


class StoredFacts:
    """Of one experiment as defined now, with these metrics: `read`, or else `begin`, compute, `write`.

    What arrives after `begin` may be in the facts or not; the next `read` then finds them out of date.
    """

    def __init__(self, warehouse: Warehouse, name: str, experiment: Experiment, metrics: Mapping[str, Metric], flagged: bool) -> None:
        self._warehouse, self._name = warehouse, name
        described = msgspec.json.encode((FORMAT, experiment, dict(metrics), flagged), order="sorted")
        self._definition = hashlib.sha256(described).hexdigest()
        self._mark: tuple[int, date] | None = None

    def read(self) -> ExperimentFacts | None:
        """The facts, if they still hold. Raises LookupError before `migrate`, OSError."""
        sql = """SELECT mark, until, facts FROM stored_facts WHERE experiment = {experiment:String} AND definition = {definition:String}
            ORDER BY at DESC LIMIT 1"""
        with self._warehouse.connections.client() as client:
            rows = client.query(sql, parameters={"experiment": self._name, "definition": self._definition}).result_rows
            if not rows or int(rows[0][0]) != read_mark(client, self._name, rows[0][1]):
                return None
        try:
            return _DECODER.decode(rows[0][2])
        except msgspec.DecodeError:
            return None

    def begin(self) -> None:
        """Note what the facts will hold for. Before anything is read for them."""
        sql = "SELECT count(), max(exposed_at) FROM exposures WHERE experiment = {experiment:String}"
        with self._warehouse.connections.client() as client:
            ((units, last),) = client.query(sql, parameters={"experiment": self._name}).result_rows
            # Up to here events of other experiments, and of none, are what units did before their exposure.
            until = from_microseconds(last).date() + timedelta(days=DAYS_OF_SLACK) if units else FIRST_DAY
            self._mark = read_mark(client, self._name, until), until

    def write(self, facts: ExperimentFacts) -> None:
        """Keep them. Whoever may only read the warehouse keeps none."""
        if self._mark is None:
            raise ValueError("the mark was not read before the facts; call begin() first")
        mark, until = self._mark
        row = [self._name, self._definition, mark, until, utc_now(), msgspec.json.encode(facts).decode()]
        try:
            with self._warehouse.connections.client() as client:
                client.insert("stored_facts", [row], column_names=COLUMNS, settings={"async_insert": 0, "insert_deduplicate": 0})
        except NotAllowed:
            return
