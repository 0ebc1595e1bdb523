"""The event's schema only ever widens: golden events of every release, the committed files, and a comparison that is itself tested.

The golden lines are what `salon serve` of that version wrote (v1: commit 53c9a8f), but for the path of the test's model.
"""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.event_schema.compatibility import narrowings
from analytics.event_schema.files import VERSIONS, kinds, read
from analytics.event_schema.generate import CUSTOM, FIELDS, FOLDER, KINDS, REQUIRED, render, schemas
from analytics.events import FEEDBACK_KINDS, GATEWAY_KINDS, SCHEMA_VERSION, Event, decode, encode, new_id, utc_now

GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = [
    pytest.param(int(file.parent.name[1:]), file.stem, line, id=f"{file.parent.name}-{file.stem}-{number}")
    for file in sorted(GOLDEN.glob("v*/*.jsonl"))
    for number, line in enumerate(file.read_bytes().splitlines())
]


def schema(kind: str, version: int = SCHEMA_VERSION) -> dict[str, Any]:
    return json.loads(read(kind, version))


def valid(instance: object, of: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(of, format_checker=jsonschema.FormatChecker()).is_valid(instance)


def test_the_committed_files_are_those_of_the_struct() -> None:
    """Changed the struct? `python -m analytics.event_schema.generate` writes them again. Released versions stay as they are."""
    assert {kind: (FOLDER / f"v{SCHEMA_VERSION}" / f"{kind}.json").read_text("utf-8") for kind in KINDS} == {
        kind: render(made) for kind, made in schemas().items()
    }
    assert kinds() == sorted(KINDS) and {*GATEWAY_KINDS, *FEEDBACK_KINDS, CUSTOM} == set(KINDS)
    assert set(FIELDS) == set(Event.__struct_fields__) and set(REQUIRED) == set(KINDS)


def test_every_version_has_examples_of_every_kind() -> None:
    assert tuple(range(1, SCHEMA_VERSION + 1)) == VERSIONS
    for version in VERSIONS:
        assert sorted(file.stem for file in GOLDEN.glob(f"v{version}/*.jsonl")) == kinds(version)


@pytest.mark.parametrize(("version", "kind"), [(version, kind) for version in VERSIONS for kind in kinds(version)])
def test_the_schemas_are_schemas(version: int, kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(kind, version))


@pytest.mark.parametrize(("version", "kind", "line"), EXAMPLES)
def test_events_of_every_release_are_read_and_fit(version: int, kind: str, line: bytes) -> None:
    raw = json.loads(line)
    event = decode(line)
    assert event.schema_version == version
    assert valid(raw, schema(kind, version)) and valid(raw, schema(kind))
    again = json.loads(encode(event))
    assert valid(again, schema(kind)) and decode(encode(event)) == event
    assert {name: again[name] for name in raw if not name.endswith("_at")} == {n: v for n, v in raw.items() if not n.endswith("_at")}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", kinds(1))
def test_the_current_schema_takes_what_every_older_one_took(version: int, kind: str) -> None:
    assert narrowings(schema(kind, version), schema(kind)) == []


BREAKS = {
    "a field is required now": lambda s: s["required"].append("unit"),
    "a field has gone": lambda s: s["properties"].pop("value"),
    "a type is narrower": lambda s: s["properties"]["value"].update(anyOf=[{"type": "integer"}, {"type": "null"}]),
    "null is refused": lambda s: s["properties"]["value"].update(anyOf=[{"type": "number"}]),
    "a type is another": lambda s: s["properties"]["unit"].update(type="integer"),
    "a constant is another": lambda s: s["properties"]["kind"].update(const="liked"),
    "a bound is higher": lambda s: s["properties"]["flags"].update(minimum=1),
    "a bound is new": lambda s: s["properties"]["unit"].update(minLength=1),
    "a format is new": lambda s: s["properties"]["unit"].update(format="uuid"),
    "values are listed": lambda s: s["properties"]["status"].update(enum=["ok", "failed"]),
    "values are excluded": lambda s: s["properties"]["status"].update({"not": {"enum": ["lost"]}}),
    "unnamed fields are refused": lambda s: s.update(additionalProperties=False),
    "attributes are numbers": lambda s: s["properties"]["attributes"].update(additionalProperties={"type": "number"}),
    "an attribute is required": lambda s: s["properties"]["attributes"].update(required=["screen"]),
    "a keyword it does not know": lambda s: s["properties"]["unit"].update(pattern="^u"),
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS)
def test_a_breaking_change_is_found(break_it) -> None:
    old = schema("like")
    broken = copy.deepcopy(old)
    break_it(broken)
    assert narrowings(old, broken) != []


def test_a_widening_change_is_none() -> None:
    old, wider = schema("like"), schema("like")
    wider["properties"]["colour"] = {"type": "string"}
    wider["required"].remove("generation_id")
    wider["properties"]["position"]["anyOf"][0]["type"] = "number"
    wider["properties"]["flags"].pop("minimum")
    wider["properties"]["kind"] = {"description": "…", "type": "string"}
    wider["description"] = "said otherwise"
    assert narrowings(old, wider) == []


LEAVES = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "number", "null", "boolean"])}),
    st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.integers(0, 2)}),
    st.fixed_dictionaries({"type": st.just("string"), "minLength": st.integers(0, 2)}),
    st.fixed_dictionaries({"type": st.lists(st.sampled_from(["string", "integer", "number", "null"]), min_size=1, unique=True)}),
    st.fixed_dictionaries({"const": st.sampled_from(["a", "bb", 1])}),
    st.fixed_dictionaries({"enum": st.lists(st.sampled_from(["a", "bb", 1, 2]), min_size=1, unique=True)}),
    st.fixed_dictionaries({"type": st.just("string"), "not": st.fixed_dictionaries({"enum": st.just(["a"])})}),
    st.just({}),
)
CHOICES = st.one_of(LEAVES, st.fixed_dictionaries({"anyOf": st.lists(LEAVES, min_size=1, max_size=3)}))
OBJECTS = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.fixed_dictionaries({"x": CHOICES, "y": CHOICES})},
    optional={
        "required": st.lists(st.sampled_from("xy"), unique=True),
        "additionalProperties": st.one_of(st.booleans(), LEAVES),
    },
)
VALUES = st.sampled_from([None, True, 0, 1, 2, 5, 1.5, "", "a", "bb", "ccc", {}])
INSTANCES = st.one_of(VALUES, st.dictionaries(st.sampled_from(["x", "y", "z"]), VALUES))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(OBJECTS, CHOICES), min_size=4, max_size=8), st.lists(INSTANCES, min_size=4, max_size=12))
def test_what_is_called_wider_takes_all_that_the_older_took(some, instances) -> None:
    """Against jsonschema's own judgement. `properties` that only the newer schema names do not occur here."""
    taken = [[valid(instance, one) for instance in instances] for one in some]
    for old, before in zip(some, taken, strict=True):
        for new, after in zip(some, taken, strict=True):
            if not narrowings(old, new):
                assert all(b or not a for a, b in zip(before, after, strict=True)), (old, new)


@settings(max_examples=50, deadline=None)
@given(st.one_of(OBJECTS, CHOICES))
def test_every_schema_takes_what_it_takes(one) -> None:
    assert narrowings(one, copy.deepcopy(one)) == []


def event(**fields: Any) -> dict[str, Any]:
    now = utc_now()
    made = Event(event_id=new_id(), kind="like", occurred_at=now, received_at=now, unit="u", attributes={"screen": "editor"})
    return {**json.loads(encode(made)), **fields}


def test_fields_of_newer_versions_are_kept_as_attributes() -> None:
    raw = event(schema_version=7, colour="blue", depth=[1, {"a": None}], screen=3, weight=1.5)
    found = decode(json.dumps(raw).encode())
    assert found.schema_version == 7 and found.unit == "u"
    assert found.attributes == {"screen": "editor", "colour": "blue", "depth": '[1,{"a":null}]', "field_screen": "3", "weight": "1.5"}
    assert decode(encode(found)) == found
    bare = event(schema_version=3, colour="blue")
    del bare["attributes"]
    assert decode(json.dumps(bare).encode()).attributes == {"colour": "blue"}
    assert decode(json.dumps(event(schema_version=3, colour="blue", attributes=None)).encode()).attributes == {"colour": "blue"}


def test_a_version_that_is_not_said_is_the_first() -> None:
    raw = event()
    del raw["schema_version"]
    assert decode(json.dumps(raw).encode()).schema_version == 1
    assert decode(json.dumps({**raw, "attributes": {"schema_version": "2"}}).encode()).schema_version == 1
    assert decode(json.dumps({"schema_version": 2, **raw}, indent=1).encode()).schema_version == 2
    assert encode(decode(json.dumps({"schema_version": 2, **raw}).encode())).endswith(b'"schema_version":2}')


@pytest.mark.parametrize(
    "wrong",
    [{"event_id": "x"}, {"flags": "many"}, {"attributes": {"x": 1}}, {"colour": 1, "attributes": [1]}, {"colour": 1, "value": "much"}],
)
def test_a_wrong_field_stays_wrong_beside_an_unknown_one(wrong) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(json.dumps(event(**wrong)).encode())
    for data in (b"", b"[]", b"{", b'"x"', b"null", b'{"colour": 1}'):
        with pytest.raises(msgspec.DecodeError):
            decode(data)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(LookupError, match=r"kind 'lik' .* there are click,"):
        read("lik")
    with pytest.raises(LookupError, match="version 9"):
        read("like", 9)
    with pytest.raises(LookupError):
        read("../v1/like")
