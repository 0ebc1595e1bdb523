"""What people and policies did to an experiment, read back from its control events."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from analytics.experiment import Experiment
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rows import from_microseconds
from analytics.warehouse.scope import Scope

DEFINING = ("create", "redefine")


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """One control event; `changed` is what changed, by key."""

    at: datetime
    action: str
    changed: dict[str, Any]


def read_controls(warehouse: Warehouse, scope: Scope) -> list[Control]:
    """The control events of an experiment, oldest first. One whose `changed` is no JSON object changes nothing."""
    events = scope.events("toUnixTimestamp64Micro(occurred_at) AS at, event_id, attributes", "kind = 'control'")
    rows = warehouse.query(f"SELECT at, attributes['action'], attributes['changed'] FROM {events} ORDER BY at, event_id", scope.parameters)
    return [Control(at=from_microseconds(at), action=action, changed=_changed(text)) for at, action, text in rows]


def read_definition(warehouse: Warehouse, name: str) -> Experiment | None:
    """The experiment as last defined (control event `create` or `redefine`, `changed` = {"definition": …}); None when it never was."""
    return last_definition(read_controls(warehouse, Scope(name, None)))


def experiment_names(warehouse: Warehouse) -> list[str]:
    """Every experiment that any event names, in alphabetical order."""
    return [name for (name,) in warehouse.query("SELECT DISTINCT experiment FROM events WHERE experiment != '' ORDER BY experiment")]


def last_definition(controls: Sequence[Control]) -> Experiment | None:
    """The definition of the last `create` or `redefine` that holds a valid one."""
    for control in reversed(controls):
        if control.action in DEFINING and "definition" in control.changed:
            try:
                return msgspec.convert(control.changed["definition"], Experiment)
            except (msgspec.ValidationError, ValueError):
                continue
    return None


def first_start(controls: Sequence[Control]) -> datetime | None:
    """When the experiment was first started; None when no control event says so."""
    return next((control.at for control in controls if control.action == "start"), None)


def weight_periods(controls: Sequence[Control], experiment: Experiment, since: datetime) -> list[tuple[datetime, dict[str, float]]]:
    """The weights of the arms from `since` on, as (from when, weights), oldest first; never empty.

    At first those of the first `create`, or of `experiment` when there is none; every `changed` with `weights` sets new ones.
    What changed before `since` is in force at `since`.
    """
    definitions = [control.changed.get("definition") for control in controls if control.action == "create"]
    created = definitions[0].get("arms") if definitions and isinstance(definitions[0], dict) else None
    periods = [(since, _weights(created, experiment) or dict(experiment.arms))]
    for control in controls:
        weights = _weights(control.changed.get("weights"), experiment)
        if weights is not None and weights != periods[-1][1]:
            if control.at <= since:
                periods = [(since, weights)]
            else:
                periods.append((control.at, weights))
    return periods


def _weights(value: object, experiment: Experiment) -> dict[str, float] | None:
    try:
        given = msgspec.convert(value, dict[str, float])
    except msgspec.ValidationError:
        return None
    return {arm: given.get(arm, 0.0) for arm in experiment.arms}


def _changed(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
