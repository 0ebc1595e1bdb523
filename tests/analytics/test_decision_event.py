"""A change of mind as an event: when there is one, that gateways agree on it, and that it reads back as it was."""

import json
from datetime import timedelta

import jsonschema
import msgspec
from report_cases import METRICS, NOW, experiment, facts, proportion

from analytics.decision_event import PastDecision, change_of_mind, history, past_decision
from analytics.event_schema.files import read
from analytics.events import decode, encode, new_id
from analytics.report.build import build_report, rebuild

LATER = timedelta(hours=1)


def report(likes=(240, 400), at=NOW, **given):
    rows = {"like_rate": {"base": proportion(likes[0], 2000), "vivid": proportion(likes[1], 2000)}}
    return build_report("vivid-colours", experiment(), METRICS, facts(rows, {"base": 2000, "vivid": 2000}, **given), at)


def told(event) -> PastDecision:
    return past_decision(event.event_id, event.occurred_at, event.attributes)


def test_only_a_change_is_an_event():
    first = change_of_mind(report((240, 250)), None)
    assert first is not None and first.attributes["action"] == "keep_running" and first.attributes["previous"] == ""
    known = told(first)
    assert change_of_mind(report((240, 251), NOW + LATER), known) is None
    shipped = change_of_mind(report(at=NOW + LATER), known)
    assert shipped is not None and told(shipped).told == "ship vivid" and shipped.attributes["previous"] == "keep_running"
    assert told(shipped).previous_id == first.event_id
    again = change_of_mind(report((240, 250), NOW + 2 * LATER), told(shipped))
    assert again is not None and again.attributes["previous"] == "ship vivid" and again.event_id != first.event_id
    assert change_of_mind(report(started_at=None), None) is None
    # a report that was asked earlier and made later takes nothing back
    assert change_of_mind(report((240, 250), NOW), told(shipped)) is None


def test_it_says_on_what_evidence_and_fits_its_schema():
    made = report()
    event = change_of_mind(made, None)
    comparison = made.metrics[0].comparisons[0]
    read_back = told(decode(encode(event)))
    assert read_back == told(event)
    assert (read_back.metric, read_back.compared, read_back.lift) == ("like_rate", "vivid", comparison.relative.value)
    assert read_back.always_valid_ci == comparison.always_valid.relative_ci and read_back.reason == made.decision.reason
    assert event.unit == "" and event.arm == "" and event.route == "hero"
    jsonschema.validate(json.loads(encode(event)), json.loads(read("decision")), cls=jsonschema.Draft202012Validator)


def test_gateways_that_see_the_same_change_make_the_same_event():
    before = told(change_of_mind(report((240, 250)), None))
    one, other = (change_of_mind(report(at=NOW + LATER + timedelta(seconds=s)), before) for s in (0, 40))
    assert one.event_id == other.event_id and one.occurred_at != other.occurred_at
    stopped = change_of_mind(report((400, 240), NOW + LATER), before)
    assert stopped.event_id != one.event_id


def test_a_change_seen_on_both_sides_of_midnight_is_one():
    before = told(change_of_mind(report((240, 250)), None))
    midnight = NOW.replace(hour=0) + timedelta(days=1)
    pair = [told(change_of_mind(report(at=midnight + timedelta(seconds=s)), before)) for s in (2, -2)]
    assert pair[0].event_id != pair[1].event_id
    assert history([pair[0], before, pair[1]]) == [before, pair[1]]


def test_what_does_not_read_is_not_known():
    odd = past_decision(new_id(), NOW, {"action": "ship", "arm": "", "lift": "much", "low": "nan", "high": "inf", "previous_id": "x"})
    assert odd.lift is None and odd.always_valid_ci == (None, None) and odd.previous_id is None and odd.arm is None


def test_the_report_carries_the_history_and_is_rebuilt_with_it():
    past = [told(change_of_mind(report((240, 250)), None))]
    made = report(decisions=past)
    assert made.decision.history == past
    assert msgspec.json.encode(rebuild(made)) == msgspec.json.encode(made)


def test_no_evidence_is_no_number():
    event = change_of_mind(report((0, 0)), None)
    assert event is not None and {"lift", "low", "high"}.isdisjoint(event.attributes)
