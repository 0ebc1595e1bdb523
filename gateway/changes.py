"""What may be done to experiments: each decision reads a ledger and drafts the control events that would carry it out.

Nothing here waits or writes. A control log runs a decision on the newest state, and again when another gateway was faster.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from analytics.events import Event, control_event
from analytics.experiment import Experiment, check_weights
from analytics.settings import nearest
from gateway.arms import differs, portable
from gateway.bandit_arms import joined
from gateway.config import Config
from gateway.ledger import ALLOWED, Ledger, Life, apply
from gateway.problems import Conflict, InvalidRequest, NotFound
from gateway.ramps import first_weights
from serving.variant import Variant

FIXED_WHILE_RUNNING = ("route", "control", "unit", "salt", "design", "switchback")


class Draft:
    """A change that is being decided: `ledger` is what it would make true, `events` are the control records that do it.

    `erased`: keyed hash of a unit → when it was erased; `token_key`: a fingerprint for all gateways to compare with theirs.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.events: list[Event] = []
        self.erased: dict[str, datetime] = {}
        self.token_key = ""

    @property
    def empty(self) -> bool:
        return not (self.events or self.erased or self.token_key)

    def record(self, name: str, route: str, action: str, who: str, why: str, changed: Mapping[str, object]) -> None:
        """Add one control event."""
        event = control_event(name, route, action, who, why, changed)
        self.ledger = apply(self.ledger, event)
        self.events.append(event)


Decide = Callable[[Draft], None]


def life_of(ledger: Ledger, name: str) -> Life:
    """One experiment. Raises NotFound with the nearest name."""
    if name not in ledger.lives:
        raise NotFound(f"no experiment is named {name!r}; {nearest(name, ledger.lives)}")
    return ledger.lives[name]


def act(draft: Draft, config: Config, name: str, action: str, who: str, why: str, arm: str | None) -> None:
    """Start, pause, resume, stop or ship. Raises NotFound, Conflict, InvalidRequest."""
    life = life_of(draft.ledger, name)
    if life.state not in ALLOWED[action]:
        raise Conflict(f"experiment {name!r} is {life.state}; to {action} it must be {' or '.join(ALLOWED[action])}", field="state")
    changed: dict[str, object] = {}
    if action in ("start", "resume"):
        _one_per_route(draft.ledger, config, life)
        changed = {"weights": life.allocation.weights}
    if action == "start":
        changed = _start(draft.ledger, config, life)
    if action == "ship":
        if arm is None or arm not in life.declared.arms:
            raise InvalidRequest(f"`arm` is {arm!r}; name the arm to ship: {', '.join(life.declared.arms)}", field="arm")
        changed = {"arm": arm, "over": config.routes[life.route].serve if life.route in config.routes else ""}
    draft.record(name, life.route, action, who, why, changed)


def reweigh(draft: Draft, name: str, weights: dict[str, float], who: str, why: str) -> None:
    """Change the weights of all arms. Raises NotFound, Conflict, InvalidRequest."""
    life = life_of(draft.ledger, name)
    if life.state not in ALLOWED["weights"]:
        raise Conflict(f"experiment {name!r} is {life.state}; its weights are history", field="state")
    if set(weights) != set(life.declared.arms):
        raise InvalidRequest(f"`weights` names {sorted(weights)}; give one for each of {sorted(life.declared.arms)}", field="weights")
    try:
        check_weights(weights)
        # What the design asks of weights it asks of these, too: alike in a grid, room below the caps of a bandit.
        msgspec.structs.replace(life.declared, arms=weights)
    except ValueError as error:
        raise InvalidRequest(f"`weights`: {error}", field="weights") from None
    if weights != life.allocation.weights:
        draft.record(name, life.route, "weights", who, why, {"weights": weights})


def adopt(draft: Draft, config: Config, who: str, said: Mapping[str, Experiment] | None, first: bool) -> None:
    """Make a configuration true: create, redefine, reweigh, end what was removed, start what starts by itself.

    `said` is what the file of this gateway said before, and only what it says differently now counts: other gateways have
    files of their own. None: there are no others, and the file rules. `first`: this gateway has no memory of its file, so
    it creates what nobody knows and leaves the rest. Raises Conflict when a running experiment would change in what its
    numbers rest on.
    """
    check(draft.ledger, config, said, first)
    for name, declared in config.experiments.items():
        if name not in draft.ledger.lives:
            draft.record(name, declared.route, "create", who, "new in the configuration", {"definition": declared, "origin": "config"})
        elif _speaks(name, declared, said, first):
            _redefine(draft, config, name, declared, who)
    for name, life in list(draft.ledger.lives.items()):
        ours = life.origin == "config" if said is None else name in said
        if ours and name not in config.experiments and life.state in ALLOWED["stop"]:
            draft.record(life.name, life.route, "stop", who, "removed from the configuration", {})
    autostart(draft, config, who)


def admit(draft: Draft, config: Config, announcement: Mapping[str, Any]) -> None:
    """Take a candidate of a fine-tune round into an experiment of its own, once. Raises ValueError when it is not usable."""
    name = str(announcement.get("experiment", ""))
    if name not in draft.ledger.lives:
        declared = msgspec.convert(announcement["definition"], Experiment)
        variant_name = str(announcement["variant_name"])
        variants = {variant_name: msgspec.convert(announcement["variant"], Variant)}
        known = {**draft.ledger.variants, **config.variants, **variants}
        if declared.route not in config.routes:
            raise ValueError(f"candidate {variant_name!r} is for route {declared.route!r}; {nearest(declared.route, config.routes)}")
        for arm in declared.arms:
            if arm not in known:
                raise ValueError(f"candidate experiment {name!r} has the arm {arm!r}; {nearest(arm, known)}")
        changed = {"definition": declared, "origin": "round", "variants": variants, "round": announcement.get("round", {})}
        draft.record(name, declared.route, "create", "round", f"candidate {variant_name} passed the gate", changed)
    autostart(draft, config, "round")


def autostart(draft: Draft, config: Config, who: str) -> None:
    """Start what starts by itself where its route is free; the others wait for their turn, oldest first."""
    for life in sorted(draft.ledger.lives.values(), key=lambda life: life.created_at):
        if life.declared.autostart and life.state == "draft" and life.route in config.routes and not _others(draft.ledger, life):
            draft.record(life.name, life.route, "start", who, "starts by itself", _start(draft.ledger, config, life))


def check(ledger: Ledger, config: Config, said: Mapping[str, Experiment] | None, first: bool) -> None:
    """Raises Conflict when a running experiment would change in what its numbers rest on."""
    for name, declared in config.experiments.items():
        life = ledger.lives.get(name)
        if life is not None and life.state in ("running", "paused") and _speaks(name, declared, said, first):
            _check_definition(life, declared)
    for life in ledger.lives.values():
        if life.state not in ("running", "paused") or not (life.origin == "round" or life.name in config.experiments):
            continue
        if reason := other_variant(ledger, config, life):
            raise Conflict(
                f"{reason}; give the new settings a new name, such as [variants.{_first_other(ledger, config, life)}-2], "
                "or stop the experiment first"
            )
        missing = set(life.declared.arms) - set(config.variants) - set(ledger.variants)
        if life.state == "running" and missing:
            raise Conflict(
                f"variant {sorted(missing)[0]!r} is an arm of the running experiment {life.name!r}; keep it, or stop the experiment"
            )


def other_variant(ledger: Ledger, config: Config, life: Life) -> str:
    """How this gateway's variants would mix the pictures of two under one arm, in words; empty when they would not."""
    arm = _first_other(ledger, config, life)
    if not arm:
        return ""
    difference = differs(life.variants[arm], portable({**ledger.variants, **config.variants}[arm], config.analytics.folder))
    return f"variant {arm!r} is an arm of the {life.state} experiment {life.name!r}: {difference}"


def _first_other(ledger: Ledger, config: Config, life: Life) -> str:
    known = {**ledger.variants, **config.variants}
    folder = config.analytics.folder
    return next((arm for arm, meant in life.variants.items() if arm in known and differs(meant, portable(known[arm], folder))), "")


def _check_definition(life: Life, declared: Experiment) -> None:
    for field in FIXED_WHILE_RUNNING:
        if getattr(declared, field) != getattr(life.declared, field):
            was, now = getattr(life.declared, field), getattr(declared, field)
            change = f"its `{field}` cannot change from {was!r} to {now!r}"
            raise Conflict(f"experiment {life.name!r} is {life.state}: {change}; stop it and take a new name")
    arms, gone = sorted(life.declared.arms), sorted(set(life.declared.arms) - set(declared.arms))
    if declared.design == "bandit":
        if gone:
            raise Conflict(f"experiment {life.name!r} is {life.state}: its arm {gone[0]!r} cannot vanish; give it the weight 0")
    elif set(declared.arms) != set(life.declared.arms):
        raise Conflict(f"experiment {life.name!r} is {life.state}: its arms are {arms}; for others stop it and take a new name")


def _speaks(name: str, declared: Experiment, said: Mapping[str, Experiment] | None, first: bool) -> bool:
    """Does this gateway's file say something new about an experiment that exists?"""
    return said is None or (not first and said.get(name) != declared)


def _redefine(draft: Draft, config: Config, name: str, declared: Experiment, who: str) -> None:
    life = draft.ledger.lives[name]
    if declared == life.declared or life.state in ("stopped", "shipped"):
        return
    changed: dict[str, object] = {"definition": declared}
    if life.state != "draft":
        added = set(declared.arms) - set(life.declared.arms)
        changed["variants"] = {arm: variant for arm, variant in _meant(draft.ledger, config, declared).items() if arm in added}
    draft.record(name, declared.route, "redefine", who, "changed in the configuration", changed)
    weights = declared.arms
    if declared.design == "bandit":
        weights = joined(life.allocation.weights, life.declared.arms, declared.arms)
    # The share of a ramp is its own, whatever `arms` says.
    moved = declared.ramp is None and life.state != "draft" and declared.arms != life.declared.arms
    if moved and weights != draft.ledger.lives[name].allocation.weights:
        draft.record(name, declared.route, "weights", who, "changed in the configuration", {"weights": weights})
    try:
        _ = draft.ledger.lives[name].experiment
    except ValueError as error:
        raise Conflict(f"experiment {name!r} has the weights {draft.ledger.lives[name].allocation.weights}, and there {error}") from None


def _start(ledger: Ledger, config: Config, life: Life) -> dict[str, object]:
    """What a start makes true: the weights, of a ramp those of its first step, and what the arms mean."""
    weights = first_weights(life.declared) or life.allocation.weights
    return {"weights": weights, "variants": _meant(ledger, config, life.declared)}


def _meant(ledger: Ledger, config: Config, declared: Experiment) -> dict[str, Variant]:
    """What the arms of an experiment are now."""
    known = {**ledger.variants, **config.variants}
    return {arm: portable(known[arm], config.analytics.folder) for arm in declared.arms if arm in known}


def _others(ledger: Ledger, life: Life) -> list[str]:
    return [o.name for o in ledger.lives.values() if o.route == life.route and o.name != life.name and o.state in ("running", "paused")]


def _one_per_route(ledger: Ledger, config: Config, life: Life) -> None:
    if life.route not in config.routes:
        raise Conflict(f"route {life.route!r} is no longer configured; {nearest(life.route, config.routes)}", field="route")
    if others := _others(ledger, life):
        raise Conflict(
            f"experiment {others[0]!r} holds route {life.route!r}; stop it first: two experiments on one route never share a unit"
        )
