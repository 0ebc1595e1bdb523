"""Which variant a route serves now, and which experiment it came out of: from control events, announcements and configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from analytics.experiment import Experiment
from analytics.settings import nearest
from analytics.warehouse.client import Warehouse
from serving.variant import Variant


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A control event of a route: `changed` as JSON."""

    experiment: str
    action: str
    changed: dict[str, Any]


def changes_of(warehouse: Warehouse, route: str) -> list[Change]:
    """The control events of a route, oldest first."""
    rows = warehouse.query(
        "SELECT experiment, attributes['action'], attributes['changed'] FROM events FINAL "
        "WHERE kind = 'control' AND route = {route:String} ORDER BY occurred_at, event_id",
        {"route": route},
    )
    return [Change(experiment=name, action=action, changed=_object(text)) for name, action, text in rows]


def known_variants(configured: Mapping[str, Variant], announcements: Sequence[Mapping[str, Any]]) -> dict[str, Variant]:
    """The file's variants and those of earlier rounds."""
    found = {
        str(a["variant_name"]): msgspec.convert(a["variant"], Variant) for a in announcements if "variant_name" in a and "variant" in a
    }
    return {**found, **configured}


def champion_of(changes: Sequence[Change], serve: str, variants: Mapping[str, Variant], asked: str | None) -> str:
    """The variant asked for; else the last one shipped, unless the file says something else since; else the file's. Raises LookupError."""
    if asked is not None:
        if asked not in variants:
            raise LookupError(f"--champion {asked!r} is not a variant; {nearest(asked, variants)}")
        return asked
    for change in reversed(changes):
        if change.action == "ship":
            arm = str(change.changed.get("arm") or change.changed.get("variant") or "")
            if arm in variants and change.changed.get("over", serve) == serve:
                return arm
            break
    return serve


def last_experiment(changes: Sequence[Change], configured: Mapping[str, Experiment], route: str) -> tuple[str, Experiment] | None:
    """The experiment of a route that was created or started last, with its definition; else the file's last one for it."""
    definitions = {name: e for name, e in configured.items() if e.route == route}
    order = list(definitions)
    for change in changes:
        if change.action in ("create", "redefine") and "definition" in change.changed:
            try:
                definitions[change.experiment] = msgspec.convert(change.changed["definition"], Experiment)
            except (msgspec.ValidationError, ValueError):
                continue
        if change.action in ("create", "start") and change.experiment in definitions:
            order = [name for name in order if name != change.experiment] + [change.experiment]
    return (order[-1], definitions[order[-1]]) if order else None


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
