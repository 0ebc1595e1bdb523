"""What control records have made true: a pure fold from events to the state of every experiment."""

from typing import Any, Literal

import msgspec

from analytics.events import Event
from analytics.experiment import Experiment
from gateway.assignment import Allocation, allocate, reweigh, with_arms
from serving.variant import Variant

State = Literal["draft", "running", "paused", "stopped", "shipped"]
Origin = Literal["config", "round"]

ALLOWED: dict[str, tuple[State, ...]] = {
    "start": ("draft",),
    "pause": ("running",),
    "resume": ("paused",),
    "stop": ("draft", "running", "paused"),
    "ship": ("running", "paused", "stopped"),
    "weights": ("draft", "running", "paused"),
    "pairs": ("running", "paused"),
    "redefine": ("draft", "running", "paused"),
}
AFTER: dict[str, State] = {"start": "running", "pause": "paused", "resume": "running", "stop": "stopped", "ship": "shipped"}


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment. `declared` is what its source last said, `allocation` what is true now; times are ISO 8601 UTC.

    `variants`: what its arms meant when it was started; paths are relative to the folder of the file. `pairs`: of a duel, how
    often two arms meet, by `pair_name`; empty, as after each change of weights: all alike. `weighed_at`: when weights or pairs last
    changed, or the start.
    """

    name: str
    declared: Experiment
    allocation: Allocation
    state: State = "draft"
    origin: Origin = "config"
    arm: str = ""
    variants: dict[str, Variant] = msgspec.field(default_factory=dict)
    pairs: dict[str, float] = msgspec.field(default_factory=dict)
    created_at: str = ""
    started_at: str = ""
    weighed_at: str = ""
    changed_at: str = ""
    who: str = ""
    why: str = ""

    @property
    def route(self) -> str:
        return self.declared.route

    @property
    def experiment(self) -> Experiment:
        """The definition with the weights of now."""
        return msgspec.structs.replace(self.declared, arms=dict(self.allocation.weights))


class Shipped(msgspec.Struct, frozen=True):
    """Route → variant, until the file says something else than `over`, which it said when the arm was shipped."""

    variant: str
    over: str


class Ledger(msgspec.Struct, frozen=True):
    """The state after all control records of the log named `log` up to `position`. `variants` came with fine-tune rounds.

    `token_key`: the fingerprint of the key that all gateways of one control topic share; empty where there is one gateway.
    """

    log: str = ""
    position: int = 0
    lives: dict[str, Life] = msgspec.field(default_factory=dict)
    shipped: dict[str, Shipped] = msgspec.field(default_factory=dict)
    variants: dict[str, Variant] = msgspec.field(default_factory=dict)
    token_key: str = ""


def pair_name(first: str, second: str) -> str:
    """How a pair of arms is called, whichever comes first."""
    return "|".join(sorted((first, second)))


def apply(ledger: Ledger, event: Event) -> Ledger:
    """The ledger after one event. Anything but a control record that it knows leaves it as it is."""
    if event.kind != "control":
        return ledger
    action, changed = event.attributes.get("action", ""), msgspec.json.decode(event.attributes.get("changed") or "{}")
    life = ledger.lives.get(event.experiment)
    if action == "create" and life is None:
        return _with(ledger, _born(event, changed), variants=msgspec.convert(changed.get("variants", {}), dict[str, Variant]))
    if life is None or life.state not in ALLOWED.get(action, ()):
        return ledger
    stamp: dict[str, Any] = {"changed_at": _iso(event), "who": event.attributes.get("who", ""), "why": event.attributes.get("why", "")}
    if action in AFTER:
        stamp["state"] = AFTER[action]
    if action == "start":
        stamp["started_at"] = _iso(event)
        # A ramp starts with other weights than the experiment was declared with.
        stamp["allocation"] = reweigh(life.allocation, changed.get("weights", life.allocation.weights))
        stamp["variants"] = msgspec.convert(changed.get("variants", {}), dict[str, Variant])
    if action == "weights":
        stamp |= {"allocation": reweigh(life.allocation, changed["weights"]), "pairs": {}}
    if action == "pairs":
        stamp["pairs"] = msgspec.convert(changed["pairs"], dict[str, float])
    if action in ("start", "resume", "weights", "pairs"):
        stamp["weighed_at"] = _iso(event)
    if "definition" in changed:
        declared = msgspec.convert(changed["definition"], Experiment)
        stamp["declared"] = declared
        if action == "redefine" and life.state == "draft":
            stamp["allocation"] = allocate(declared.salt or life.name, declared.arms)
        elif action == "redefine":
            stamp["allocation"] = with_arms(life.allocation, declared.arms)
            stamp["variants"] = {**life.variants, **msgspec.convert(changed.get("variants", {}), dict[str, Variant])}
    if action == "ship":
        stamp["arm"] = changed["arm"]
        shipped = {**ledger.shipped, life.route: Shipped(changed["arm"], changed.get("over", ""))}
        ledger = msgspec.structs.replace(ledger, shipped=shipped)
    return _with(ledger, msgspec.structs.replace(life, **stamp))


def _born(event: Event, changed: dict[str, Any]) -> Life:
    declared = msgspec.convert(changed["definition"], Experiment)
    return Life(
        name=event.experiment,
        declared=declared,
        allocation=allocate(declared.salt or event.experiment, declared.arms),
        origin=changed.get("origin", "config"),
        created_at=_iso(event),
        changed_at=_iso(event),
        who=event.attributes.get("who", ""),
        why=event.attributes.get("why", ""),
    )


def _with(ledger: Ledger, life: Life, variants: dict[str, Variant] | None = None) -> Ledger:
    return msgspec.structs.replace(ledger, lives={**ledger.lives, life.name: life}, variants={**ledger.variants, **(variants or {})})


def _iso(event: Event) -> str:
    return event.occurred_at.isoformat()
