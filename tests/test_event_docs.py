"""docs/events.md describes every kind, field, flag, version and reserved attribute, and its example is what a gateway would log."""

import json
import re
from pathlib import Path

import jsonschema

from analytics.event_schema.files import VERSIONS, read
from analytics.event_schema.generate import ALWAYS, ATTRIBUTES, CUSTOM, FIELDS, KINDS, REQUIRED
from analytics.events import SCHEMA_VERSION, Flag, decode
from gateway.feedback_events import RESERVED_ATTRIBUTES, Feedback
from gateway.wire import decode as decode_body

TEXT = (Path(__file__).parents[1] / "docs" / "events.md").read_text("utf-8")


def section(heading: str) -> str:
    return TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_every_field_is_described_as_in_the_schema() -> None:
    assert {row[0].strip("`"): row[2] for row in rows("Fields")} == dict(FIELDS)
    assert set(re.findall(r"`(\w+)`", section("Fields"))) >= set(RESERVED_ATTRIBUTES)


def test_every_kind_is_described_with_what_it_always_has() -> None:
    told: dict[str, set[str]] = {}
    for names, _, always in rows("Kinds"):
        for kind in re.findall(r"`(\w+)`", names) or [CUSTOM]:
            told[kind] = set(re.findall(r"`(\w+)`", always)) - {"rater"}
    assert told == {kind: {*REQUIRED[kind], *ATTRIBUTES.get(kind, ())} for kind in KINDS}
    assert all(f"`{name}`" in section("Kinds") for name in ALWAYS)


def test_every_flag_and_version_is_described() -> None:
    assert {row[1].strip("`"): int(row[0]) for row in rows("Flags")} == {str(flag.name).lower(): flag.value for flag in Flag}
    assert [int(row[0]) for row in rows("Versions")] == list(VERSIONS)


def test_the_examples_are_what_they_say() -> None:
    sent, logged, message = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL))
    item = decode_body(json.dumps(sent).encode(), Feedback)
    assert item.event_id == decode(json.dumps(logged).encode()).event_id
    for event in (logged, *message["events"]):
        assert decode(json.dumps(event).encode()).schema_version == SCHEMA_VERSION
        jsonschema.validate(event, json.loads(read(event["kind"])), cls=jsonschema.Draft202012Validator)
