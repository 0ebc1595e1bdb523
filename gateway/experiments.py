"""The live state of experiments: every change is a control record in the event log before it takes effect.

The state is a fold over those records (gateway.ledger); a snapshot file beside the log keeps it with the log's position, so
that a restart reads only what came after. Requests read an immutable view that is replaced as a whole.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from analytics.event_log import EventLog, LogFull
from analytics.events import control_event
from analytics.experiment import Experiment, check_weights
from analytics.settings import nearest
from gateway.arms import differs, portable
from gateway.assignment import Assignment, Split
from gateway.config import Config
from gateway.ledger import AFTER, ALLOWED, Life, Origin, apply
from gateway.problems import Conflict, InvalidRequest, NotFound, Unavailable, retry_after
from gateway.snapshot import restore, save
from serving.variant import Variant

log = logging.getLogger(__name__)
FIXED_WHILE_RUNNING = ("route", "control", "unit", "salt", "design")


class Plan(msgspec.Struct, frozen=True):
    """What a route does now: its own variant, and the experiment that runs on it."""

    route: str
    serve: str
    life: Life | None
    split: Split | None

    def assign(self, unit: str) -> Assignment | None:
        """The unit's arm; None when no experiment runs."""
        return self.split.assign(unit) if self.split else None


class View(msgspec.Struct, frozen=True):
    """All that a request reads: plans by route, variants by name (the file's and those of rounds)."""

    plans: dict[str, Plan]
    variants: dict[str, Variant]


class Experiments:
    """Restores, changes and shows the state of experiments."""

    def __init__(self, event_log: EventLog, folder: Path, config: Config) -> None:
        self._log, self._config = event_log, config
        self._file = folder / "experiments.json"
        self._changing = asyncio.Lock()
        # `carried`: why the state is not that of this log; empty when it is.
        self.ledger, self.carried = restore(self._file, event_log)
        self.view = self._look()

    @property
    def lives(self) -> dict[str, Life]:
        return self.ledger.lives

    def life(self, name: str) -> Life:
        """One experiment. Raises NotFound with the nearest name."""
        if name not in self.lives:
            raise NotFound(f"no experiment is named {name!r}; {nearest(name, self.lives)}")
        return self.lives[name]

    async def adopt(self, config: Config, who: str = "config") -> None:
        """Make a new configuration true: create, redefine, reweigh, end what was removed, start what starts by itself.

        Raises Conflict, with nothing changed, when a running experiment would change in what its numbers rest on.
        """
        async with self._changing:
            self.check(config)
            self._config = config
            for name, declared in config.experiments.items():
                await self._declare(name, declared, who)
            for name, life in list(self.lives.items()):
                if life.origin == "config" and name not in config.experiments and life.state in ALLOWED["stop"]:
                    await self._record(life.name, life.route, "stop", who, "removed from the configuration", {})
            self.view = self._look()
            await self._autostart(who)

    async def admit(self, announcement: Mapping[str, Any]) -> bool:
        """Take a candidate of a fine-tune round into an experiment of its own. Returns False when it is known already.

        Raises ValueError when the announcement is not usable.
        """
        async with self._changing:
            name = str(announcement.get("experiment", ""))
            if name in self.lives:
                await self._autostart("round")
                return False
            declared = msgspec.convert(announcement["definition"], Experiment)
            variant_name = str(announcement["variant_name"])
            variants = {variant_name: msgspec.convert(announcement["variant"], Variant)}
            known = {**self.view.variants, **variants}
            if declared.route not in self._config.routes:
                raise ValueError(
                    f"candidate {variant_name!r} is for route {declared.route!r}; {nearest(declared.route, self._config.routes)}"
                )
            for arm in declared.arms:
                if arm not in known:
                    raise ValueError(f"candidate experiment {name!r} has the arm {arm!r}; {nearest(arm, known)}")
            changed = {
                "definition": declared, "origin": "round", "variants": variants, "round": announcement.get("round", {}),
            }  # fmt: skip
            await self._record(name, declared.route, "create", "round", f"candidate {variant_name} passed the gate", changed)
            await self._autostart("round")
            return True

    async def change(self, name: str, action: str, who: str, why: str, arm: str | None = None) -> Life:
        """Start, pause, resume, stop or ship. Raises NotFound, Conflict, InvalidRequest, Unavailable."""
        async with self._changing:
            life = self.life(name)
            if life.state not in ALLOWED[action]:
                raise Conflict(f"experiment {name!r} is {life.state}; to {action} it must be {' or '.join(ALLOWED[action])}", field="state")
            changed: dict[str, object] = {}
            if action in ("start", "resume"):
                self._one_per_route(life)
                changed = {"weights": life.allocation.weights}
            if action == "start":
                changed["variants"] = self._meant(life)
            if action == "ship":
                if arm is None or arm not in life.declared.arms:
                    raise InvalidRequest(f"`arm` is {arm!r}; name the arm to ship: {', '.join(life.declared.arms)}", field="arm")
                changed = {"arm": arm, "over": self._config.routes[life.route].serve if life.route in self._config.routes else ""}
            await self._record(name, life.route, action, who, why, changed)
            return self.lives[name]

    async def reweigh(self, name: str, weights: dict[str, float], who: str, why: str) -> Life:
        """Change the weights of all arms. Raises NotFound, Conflict, InvalidRequest, Unavailable."""
        async with self._changing:
            life = self.life(name)
            if life.state not in ALLOWED["weights"]:
                raise Conflict(f"experiment {name!r} is {life.state}; its weights are history", field="state")
            if set(weights) != set(life.declared.arms):
                raise InvalidRequest(
                    f"`weights` names {sorted(weights)}; give one for each of {sorted(life.declared.arms)}", field="weights"
                )
            try:
                check_weights(weights)
            except ValueError as error:
                raise InvalidRequest(f"`weights`: {error}", field="weights") from None
            if weights != life.allocation.weights:
                await self._record(name, life.route, "weights", who, why, {"weights": weights})
            return self.lives[name]

    async def note(self, action: str, who: str, why: str, changed: Mapping[str, object]) -> None:
        """Log a change that belongs to no experiment, such as a new configuration file."""
        async with self._changing:
            await self._record("", "", action, who, why, changed)

    async def keep_up(self) -> None:
        """Move the snapshot to the log's end, so that a restart has little to read."""
        async with self._changing:
            end = await asyncio.to_thread(self._log.end)
            self.ledger = msgspec.structs.replace(self.ledger, position=end)
            await self._save()

    async def _record(self, name: str, route: str, action: str, who: str, why: str, changed: Mapping[str, object]) -> None:
        event = control_event(name, route, action, who, why, changed)
        try:
            await asyncio.wrap_future(self._log.submit([event]))
        except LogFull as error:
            raise Unavailable(
                "the event log is full, and a change must be recorded first", headers=retry_after(error.retry_after_seconds)
            ) from None
        except OSError as error:
            raise Unavailable(f"the event log cannot be written ({error.strerror}), and a change must be recorded first") from None
        # Under the lock this process is the only writer of control records: all of them up to the log's end are applied.
        end = await asyncio.to_thread(self._log.end)
        self.ledger = msgspec.structs.replace(apply(self.ledger, event), position=end)
        self.view = self._look()
        await self._save()
        log.info("control: %s %s by %s: %s", action, name or "-", who, why)

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(save, self._file, self.ledger)
        except OSError as error:
            log.error("the snapshot %s cannot be written (%s); the event log still holds the change", self._file, error.strerror)

    def _look(self) -> View:
        variants = {**self.ledger.variants, **self._config.variants}
        plans = {}
        for route, section in self._config.routes.items():
            shipped = self.ledger.shipped.get(route)
            stands = shipped is not None and shipped.over == section.serve and shipped.variant in variants
            serve = shipped.variant if shipped is not None and stands else section.serve
            life = next((life for life in self.lives.values() if life.route == route and life.state == "running"), None)
            if life is not None and not set(life.declared.arms) <= set(variants):
                life = None
            plans[route] = Plan(route, serve, life, Split(life.allocation) if life else None)
        return View(plans, variants)

    def check(self, config: Config) -> None:
        """Raises Conflict when a running experiment would change in what its numbers rest on."""
        for name, declared in config.experiments.items():
            life = self.lives.get(name)
            if life is None or life.state not in ("running", "paused"):
                continue
            for field in FIXED_WHILE_RUNNING:
                if getattr(declared, field) != getattr(life.declared, field):
                    was, now = getattr(life.declared, field), getattr(declared, field)
                    change = f"its `{field}` cannot change from {was!r} to {now!r}"
                    raise Conflict(f"experiment {name!r} is {life.state}: {change}; stop it and take a new name")
            if set(declared.arms) != set(life.declared.arms):
                arms = sorted(life.declared.arms)
                raise Conflict(f"experiment {name!r} is {life.state}: its arms are {arms}; for others stop it and take a new name")
        for life in self.lives.values():
            if life.state in ("running", "paused") and (life.origin == "round" or life.name in config.experiments):
                self._check_variants(config, life)
            missing = set(life.declared.arms) - set(config.variants) - set(self.ledger.variants)
            if life.state == "running" and missing and (life.origin == "round" or life.name in config.experiments):
                raise Conflict(
                    f"variant {sorted(missing)[0]!r} is an arm of the running experiment {life.name!r}; keep it, or stop the experiment"
                )

    async def _declare(self, name: str, declared: Experiment, who: str) -> None:
        life = self.lives.get(name)
        if life is None:
            origin: Origin = "config"
            await self._record(name, declared.route, "create", who, "new in the configuration", {"definition": declared, "origin": origin})
            return
        if declared == life.declared or life.state in ("stopped", "shipped"):
            return
        moved = declared.arms != life.declared.arms
        await self._record(name, declared.route, "redefine", who, "changed in the configuration", {"definition": declared})
        if moved and life.state != "draft" and declared.arms != life.allocation.weights:
            await self._record(name, declared.route, "weights", who, "changed in the configuration", {"weights": declared.arms})

    async def _autostart(self, who: str) -> None:
        """Start what starts by itself where its route is free; the others wait for their turn, oldest first."""
        for life in sorted(self.lives.values(), key=lambda life: life.created_at):
            if life.declared.autostart and life.state == "draft" and life.route in self._config.routes and not self._others(life):
                changed = {"weights": life.allocation.weights, "variants": self._meant(life)}
                await self._record(life.name, life.route, "start", who, "starts by itself", changed)

    def _meant(self, life: Life) -> dict[str, Variant]:
        """What the arms of an experiment are now."""
        known = {**self.ledger.variants, **self._config.variants}
        return {arm: portable(known[arm], self._config.analytics.folder) for arm in life.declared.arms if arm in known}

    def _check_variants(self, config: Config, life: Life) -> None:
        """Raises Conflict when an arm would mix the pictures of two variants."""
        known = {**self.ledger.variants, **config.variants}
        for arm, meant in life.variants.items():
            if arm not in known:
                continue
            now = portable(known[arm], config.analytics.folder)
            if difference := differs(meant, now):
                raise Conflict(
                    f"variant {arm!r} is an arm of the {life.state} experiment {life.name!r}: {difference}; give the new settings "
                    f"a new name, such as [variants.{arm}-2], or stop the experiment first"
                )

    def _others(self, life: Life) -> list[str]:
        return [o.name for o in self.lives.values() if o.route == life.route and o.name != life.name and o.state in ("running", "paused")]

    def _one_per_route(self, life: Life) -> None:
        if life.route not in self._config.routes:
            raise Conflict(f"route {life.route!r} is no longer configured; {nearest(life.route, self._config.routes)}", field="route")
        if others := self._others(life):
            raise Conflict(
                f"experiment {others[0]!r} holds route {life.route!r}; stop it first: two experiments on one route never share a unit"
            )


def actions() -> tuple[str, ...]:
    """What can be done to an experiment by name."""
    return tuple(AFTER)
