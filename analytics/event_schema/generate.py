"""JSON Schemas (2020-12) of the current version, from the Event struct and from what each kind always says.

`python -m analytics.event_schema.generate` writes them. Files of versions before the current one are never written again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from analytics.events import FEEDBACK_KINDS, GATEWAY_KINDS, SCHEMA_VERSION, Event

FOLDER = Path(__file__).parent
# A kind that a metric names, and Salon itself does not.
CUSTOM = "custom"
# Salon's own since after the first release, where a metric could name them: those events still fit `custom`.
LATER_KINDS = frozenset({"decision", "trained"})

FIELDS: Mapping[str, str] = {
    "event_id": "UUIDv7. Two events with one id are one event",
    "kind": "What happened",
    "occurred_at": "When it happened, UTC, held between the generation and received_at; what reports count by",
    "received_at": "When the gateway took it, UTC, by the gateway's clock",
    "route": "The route that was asked",
    "experiment": "The experiment that the unit is in; empty: none",
    "arm": "The arm that the unit, or in a grid of several arms the picture, had; empty: none",
    "variant_digest": "What was served, as sha256:HEX; empty where several were",
    "unit": "Who is randomised; empty: nobody is known",
    "propensity": "The probability that `arm` had in the draw, in a grid of several arms to have this place, 0 to 1",
    "generation_id": "The request for pictures that this is about; UUIDv7",
    "image_id": "The picture that this is about; UUIDv7",
    "position": "Where the picture stood in its grid, from 0",
    "grid": "How many pictures the request asked for",
    "value": "A number of the event's own, in the unit of the metric that reads it",
    "flags": "Suspicions, as bits: analytics.events.Flag",
    "attributes": "Text by name: what the app said, what the gateway noted, and fields of newer versions",
    "prompt": "The prompt of the request",
    "seed": "The seed of the request (kind generation) or of the picture (kind image)",
    "steps": "Denoising steps",
    "guidance": "Strength of classifier-free guidance",
    "queue_ms": "Waited before the model began, milliseconds",
    "service_ms": "Worked on by the model, milliseconds",
    "status": "What became of a request: ok, failed or cancelled",
    "schema_version": "The version of this schema that wrote the event. Version 1 did not write it",
    "sent_at": "When the client says that it sent the event, UTC, by the client's clock",
}
KINDS: Mapping[str, str] = {
    "exposure": "The first time that an assignment could have changed what a unit saw",
    "generation": "One request for pictures",
    "image": "One picture of a request",
    "control": "A change by a person or a policy",
    "decision": "A report recommends something else than the one before",
    "trained": "A candidate was trained on what this unit did",
    "view": "Somebody saw a picture",
    "click": "Somebody clicked on a picture",
    "like": "Somebody liked a picture",
    "share": "Somebody shared a picture",
    "dislike": "Somebody disliked a picture",
    "report": "Somebody reported a picture",
    "convert": "Somebody did what the app is for",
    "preference": "Somebody chose between two pictures: image_id is the winner's, attribute loser the other's, value 1, or 0.5 for a tie",
    CUSTOM: "Feedback of a kind that a metric names",
}
ALWAYS = ("event_id", "kind", "occurred_at", "received_at")
# Besides ALWAYS. A name may leave this table, never enter it: older events do not have what only newer ones always say.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "exposure": ("route", "experiment", "unit", "generation_id"),
    "generation": ("route", "generation_id", "status"),
    "image": ("route", "generation_id", "image_id", "position"),
    "control": ("attributes",),
    "decision": ("route", "experiment", "attributes"),
    "trained": ("route", "unit", "variant_digest", "attributes"),
    "preference": ("route", "generation_id", "image_id", "value", "attributes"),
    **dict.fromkeys(sorted({*FEEDBACK_KINDS, CUSTOM} - {"preference"}), ("generation_id",)),
}
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "control": ("action", "changed", "who", "why"),
    "decision": ("action", "arm", "as_of", "previous", "reason"),
    "trained": ("round",),
    "preference": ("loser", "loser_arm", "loser_generation_id", "loser_variant_digest"),
}


def schemas(
    event: type[msgspec.Struct] = Event, version: int = SCHEMA_VERSION, required: Mapping[str, tuple[str, ...]] = REQUIRED
) -> dict[str, dict[str, Any]]:
    """The schema of every kind, by kind."""
    return {kind: _schema(event, version, kind, required[kind]) for kind in KINDS}


def render(schema: Mapping[str, Any]) -> str:
    """The text of the file: the same schema is the same text."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _schema(event: type[msgspec.Struct], version: int, kind: str, required: tuple[str, ...]) -> dict[str, Any]:
    fields = msgspec.json.schema(event)["$defs"][event.__name__]["properties"]
    properties = {name: _property(name, fields[name], kind) for name in FIELDS if name in fields}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:salon:event:{kind}:v{version}",
        "title": f"Salon event of kind {kind}, version {version}",
        "description": f"{KINDS[kind]}. Fields that are not named here may come with newer versions.",
        "type": "object",
        "properties": properties,
        "required": [*ALWAYS, *required],
    }


def _property(name: str, found: Mapping[str, Any], kind: str) -> dict[str, Any]:
    schema = {key: value for key, value in found.items() if key not in ("default", "title", "description")}
    if name.endswith("_at"):
        schema = {"anyOf": [_moment(one) for one in schema["anyOf"]]} if "anyOf" in schema else _moment(schema)
    if name == "flags":
        schema["minimum"] = 0
    if name == "schema_version":
        schema["minimum"] = 1
    if name == "attributes" and kind in ATTRIBUTES:
        schema["required"] = list(ATTRIBUTES[kind])
    if name == "kind":
        own = sorted({*GATEWAY_KINDS, *FEEDBACK_KINDS} - LATER_KINDS)
        schema = {"type": "string", "minLength": 1, "not": {"enum": own}} if kind == CUSTOM else {"const": kind}
    return {"description": FIELDS[name], **schema}


def _moment(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "format": "date-time"} if schema.get("type") == "string" else dict(schema)


def main() -> None:
    """Write the files of the current version."""
    folder = FOLDER / f"v{SCHEMA_VERSION}"
    folder.mkdir(exist_ok=True)
    for kind, schema in schemas().items():
        (folder / f"{kind}.json").write_text(render(schema), "utf-8")
    print(f"wrote {len(KINDS)} schemas to {folder}")


if __name__ == "__main__":
    main()
