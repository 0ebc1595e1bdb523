"""Changes of mind in the warehouse: each once, as of a time, and in no figure of the report they are about."""

from datetime import UTC, datetime, timedelta
from itertools import count

import msgspec

from analytics.events import Event, derived_id
from analytics.experiment import Experiment, Metric
from analytics.warehouse.decisions import read_decisions
from analytics.warehouse.facts import read_facts

START = datetime(2026, 11, 20, 8, tzinfo=UTC)
EXPERIMENT = Experiment(route="hero", arms={"base": 0.5, "vivid": 0.5}, control="base", primary="like_rate")
METRICS = {"like_rate": Metric(kind="proportion", event="like")}
POSITIONS = count(1)


def put(warehouse, *events: Event) -> None:
    for event in events:
        position = next(POSITIONS)
        warehouse.insert("decisions-log", position, position, [event])


def decision(hours: float, action: str, arm: str = "", previous: Event | None = None, seconds: float = 0.0) -> Event:
    at = START + timedelta(hours=hours)
    before = str(previous.event_id) if previous else ""
    attributes = {"action": action, "arm": arm, "reason": "because", "previous": "", "previous_id": before, "lift": "0.25", "low": "0.01"}
    return Event(
        event_id=derived_id(START, "decision", before, action, arm),
        kind="decision",
        occurred_at=at + timedelta(seconds=seconds),
        received_at=at + timedelta(seconds=seconds),
        route="hero",
        experiment="history",
        attributes=attributes,
    )


def test_history_is_read_each_change_once_and_as_of_a_time(warehouse):
    keep = decision(1, "keep_running")
    ship = decision(5, "ship", "vivid", keep)
    # two gateways saw the change: the event that came first stays
    put(warehouse, keep, msgspec.structs.replace(ship, received_at=ship.received_at + timedelta(seconds=9)), ship)
    found = read_decisions(warehouse, "history")
    assert [(d.action, d.arm) for d in found] == [("keep_running", None), ("ship", "vivid")]
    assert found[1].previous_id == keep.event_id and found[1].lift == 0.25 and found[1].always_valid_ci == (0.01, None)
    assert found[1].at == START + timedelta(hours=5)
    assert read_decisions(warehouse, "history", START + timedelta(hours=2)) == found[:1]
    assert read_decisions(warehouse, "another") == []


def test_what_a_report_decides_is_in_no_figure_of_the_next(warehouse):
    exposures = [
        Event(
            event_id=derived_id(START, "exposure", str(i)), kind="exposure", occurred_at=START, received_at=START, route="hero",
            experiment="quiet", arm="base" if i % 2 else "vivid", unit=f"u{i}", propensity=0.5, variant_digest="sha256:1",
        )
        for i in range(6)
    ]  # fmt: skip
    put(warehouse, *exposures)
    before = read_facts(warehouse, "quiet", EXPERIMENT, METRICS)
    put(warehouse, msgspec.structs.replace(decision(9, "ship", "vivid"), experiment="quiet"))
    after = read_facts(warehouse, "quiet", EXPERIMENT, METRICS)
    assert [d.action for d in read_decisions(warehouse, "quiet")] == ["ship"] and after.decisions == read_decisions(warehouse, "quiet")
    assert msgspec.structs.replace(after, decisions=[]) == before and after.events_read == 6 and after.data_as_of == START
