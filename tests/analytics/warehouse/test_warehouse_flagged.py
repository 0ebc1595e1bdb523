"""Facts with flagged events counted, against the same recomputation as without: of events whose flags were taken off."""

import random
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from test_warehouse_facts import EXPERIMENT, METRICS, START, Recomputed, check, control, put, random_events

from analytics.facts import Moments, QuantileFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.facts import read_facts

NAMES = {1: "bot_user_agent", 2: "clock_ahead", 4: "unknown_generation"}


ByArm = Mapping[str, Moments | QuantileFacts]


def figures(by_arm: ByArm) -> dict[str, Any]:
    return {arm: msgspec.structs.astuple(facts) for arm, facts in by_arm.items()}


def near(by_arm: ByArm) -> dict[str, Any]:
    # The warehouse adds in the order in which its threads come, so the last digits differ between two readings.
    return {arm: pytest.approx(values, rel=1e-9, abs=1e-9) for arm, values in figures(by_arm).items()}


def test_with_flagged_events_every_number_is_that_of_events_without_flags(warehouse: Warehouse) -> None:
    name = "flagged-all"
    events = [*random_events(name, random.Random(11)), control(name, START, "start", {})]
    put(warehouse, name, events)
    bare = Recomputed([msgspec.structs.replace(event, flags=0) for event in events], name, None)
    counted = read_facts(warehouse, name, EXPERIMENT, METRICS, flagged=True)
    assert counted.flagged_counted and counted.with_flagged is None and counted.flagged_events > 0
    check(msgspec.structs.replace(counted, flagged_events=0, bot_units=0), bare, [(START, EXPERIMENT.arms)])

    plain = read_facts(warehouse, name, EXPERIMENT, METRICS)
    once = Recomputed(events, name, None)
    bits = Counter(flag for event in once.everything for bit, flag in NAMES.items() if event.flags & bit)
    assert plain.flags == counted.flags == dict(sorted(bits.items())) and plain.flagged_events == counted.flagged_events
    beside = plain.with_flagged
    assert beside is not None and beside.periods == counted.periods
    assert figures(beside.primary) == near(counted.metrics[EXPERIMENT.primary]) != figures(plain.metrics[EXPERIMENT.primary])
    suspicious = {event.unit for event in once.everything if event.flags}
    for arm in EXPERIMENT.arms:
        clean = sum(event.arm == arm and unit not in suspicious for unit, event in once.drawn.items())
        assert sum(period.units[arm] for period in beside.clean_periods) == clean < sum(period.units[arm] for period in plain.periods)


def test_a_quantile_and_a_built_in_metric_as_the_primary_one(warehouse: Warehouse) -> None:
    name = "flagged-primary"
    put(warehouse, name, random_events(name, random.Random(12), 60))
    quantiles = [key for key, metric in METRICS.items() if metric.kind == "quantile"]
    for key in (quantiles[0], "latency_p95_ms", "failure_rate"):
        experiment = msgspec.structs.replace(EXPERIMENT, primary=key)
        plain, counted = (read_facts(warehouse, name, experiment, METRICS, flagged=flagged) for flagged in (False, True))
        assert plain.with_flagged is not None and figures(plain.with_flagged.primary) == near(counted.metrics[key]) != {}


def test_without_flags_nothing_is_asked_twice(warehouse: Warehouse) -> None:
    name = "flagged-none"
    put(warehouse, name, [msgspec.structs.replace(event, flags=0) for event in random_events(name, random.Random(13), 20)])
    facts = read_facts(warehouse, name, EXPERIMENT, METRICS, START + timedelta(days=400))
    assert facts.flagged_events == 0 and facts.flags == {} and facts.with_flagged is None
