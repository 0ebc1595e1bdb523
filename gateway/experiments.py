"""The live state of experiments as one gateway sees it, changes it and serves by it.

The state itself is in the control log (on disk, or shared by several gateways), whose changes this follows. Requests read an
immutable view that is replaced as a whole.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from analytics.event_log import EventLog, LogFull
from analytics.events import control_event
from gateway import changes
from gateway.adopted import Adopted, AdoptedFile
from gateway.changes import Decide, Draft
from gateway.config import Config
from gateway.control_log import ControlAway, ControlLog
from gateway.ledger import AFTER, Life
from gateway.plans import look
from gateway.problems import Problem, Unavailable, retry_after

log = logging.getLogger(__name__)
RETRY_SECONDS = 2.0
T = TypeVar("T")


class Experiments:
    """Follows, changes and shows the state of experiments.

    `fingerprint` tells this gateway's token key from another. `adopting`: why the file is not what the experiments rest on
    yet; None when it is.
    """

    def __init__(self, control: ControlLog, event_log: EventLog, adopted: AdoptedFile, config: Config, fingerprint: str = "") -> None:
        self._control, self._log, self._config = control, event_log, config
        self._adopted, self._fingerprint = adopted, fingerprint
        self._changing = asyncio.Lock()
        self._looking = threading.Lock()
        self.adopting: str | None = "the experiments of the file are not adopted yet"
        self.view = look(control.ledger, config)

    @property
    def lives(self) -> dict[str, Life]:
        return self._control.ledger.lives

    @property
    def carried(self) -> str:
        """Why the state is not that of this log; empty when it is."""
        return self._control.carried

    @property
    def problems(self) -> dict[str, str]:
        """What readiness should say, by part."""
        found = {"control": self._control.problem or "", "experiments": self._control.carried}
        if self._control.shared and self.adopting:
            found["adopting"] = self.adopting
        found |= {f"experiment {name}": reason for name, reason in self.view.left_out.items()}
        shared_key = self._control.ledger.token_key
        if shared_key and self._fingerprint and shared_key != self._fingerprint:
            found["token key"] = (
                f"this gateway's token key has the fingerprint {self._fingerprint}, the other gateways' {shared_key}: each refuses the "
                "feedback tokens of the other, and forgets nobody for the other; give all of them one file, [gateway] token_key"
            )
        return {part: text for part, text in found.items() if text}

    def life(self, name: str) -> Life:
        """One experiment. Raises NotFound with the nearest name."""
        return changes.life_of(self._control.ledger, name)

    def check(self, config: Config) -> None:
        """Raises Conflict when a running experiment would change in what its numbers rest on."""
        memory = self._memory()
        changes.check(self._control.ledger, config, memory.experiments if memory else None, first=memory is not None and memory.first)

    def follow(self) -> None:
        """Begin to follow the control log."""
        self._control.start(self._look)

    async def begin(self, patience_seconds: float = 3.0) -> None:
        """Make the file true before the first request; where the control log is away, later, by `keep_up`."""
        self.follow()
        waited = 0.0
        while not self._control.caught_up and waited < patience_seconds and self._control.shared:
            await asyncio.sleep(0.05)
            waited += 0.05
        if not self._control.shared:
            await self.adopt(self._config)
        else:
            await self._adopt_late()

    async def adopt(self, config: Config, who: str = "config") -> None:
        """Make a new configuration true: create, redefine, reweigh, end what was removed, start what starts by itself.

        Raises Conflict, with nothing changed, when a running experiment would change in what its numbers rest on; Unavailable
        when the control log is away.
        """
        async with self._changing:
            memory = self._memory()
            said, first = (memory.experiments, memory.first) if memory else (None, False)

            def decide(draft: Draft) -> None:
                changes.adopt(draft, config, who, said, first)
                rotated = memory is not None and memory.token_key not in ("", self._fingerprint)
                if memory is not None and (rotated or not draft.ledger.token_key) and draft.ledger.token_key != self._fingerprint:
                    draft.token_key = self._fingerprint

            if (await self._change(decide)).token_key:
                log.warning("the token key of all gateways has the fingerprint %s from now on", self._fingerprint)
            with self._looking:
                self._config = config
            self._look()
            if memory is not None:
                now = Adopted(experiments=dict(config.experiments), token_key=self._fingerprint, first=False)
                await asyncio.to_thread(self._adopted.save, now)
            self.adopting = None
            if other_key := self.problems.get("token key"):
                log.error("%s", other_key)

    async def admit(self, announcement: Mapping[str, Any]) -> bool:
        """Take a candidate of a fine-tune round into an experiment of its own. Returns False when it is known already.

        Raises ValueError when the announcement is not usable, Unavailable.
        """
        async with self._changing:
            decide = functools.partial(_admit, config=self._config, announcement=announcement)
            # Asked every few seconds: the control log is troubled only where there is something to do.
            rehearsal = Draft(self._control.ledger)
            decide(rehearsal)
            if rehearsal.empty or not self._control.caught_up:
                return False
            return any(event.attributes["action"] == "create" for event in (await self._change(decide)).events)

    async def change(self, name: str, action: str, who: str, why: str, arm: str | None = None) -> Life:
        """Start, pause, resume, stop or ship. Raises NotFound, Conflict, InvalidRequest, Unavailable."""
        async with self._changing:
            draft = await self._change(lambda draft: changes.act(draft, self._config, name, action, who, why, arm))
            return draft.ledger.lives[name]

    async def reweigh(self, name: str, weights: dict[str, float], who: str, why: str) -> Life:
        """Change the weights of all arms. Raises NotFound, Conflict, InvalidRequest, Unavailable."""
        async with self._changing:
            draft = await self._change(lambda draft: changes.reweigh(draft, name, weights, who, why))
            return draft.ledger.lives[name]

    async def steer(self, decide: Decide) -> Draft:
        """Carry out what is decided without a person, where there still is something to do. Raises Unavailable, and what `decide` does."""
        async with self._changing:
            rehearsal = Draft(self._control.ledger)
            decide(rehearsal)
            return rehearsal if rehearsal.empty else await self._change(decide)

    async def note(self, action: str, who: str, why: str, changed: Mapping[str, object]) -> None:
        """Log a change that belongs to no experiment, such as a new configuration file. Raises Unavailable."""
        event = control_event("", "", action, who, why, changed)
        await _available(asyncio.to_thread(lambda: self._log.submit([event], reserve=True).result()))
        log.info("control: %s by %s: %s", action, who, why)

    async def publish_erasure(self, unit_hash: str, at: datetime) -> None:
        """Tell the other gateways, where there are any, that a unit is to be forgotten. Raises Unavailable."""
        if self._control.shared:
            async with self._changing:
                await self._change(lambda draft: draft.erased.update({unit_hash: at}))

    async def keep_up(self) -> None:
        """Move the snapshot to the log's end, so that a restart has little to read."""
        await asyncio.to_thread(self._control.keep_up)

    async def adopt_late(self) -> None:
        """Adopt the file once the control log can be read; for a gateway that started without it."""
        if self.adopting is not None and self._control.shared:
            await self._adopt_late()

    async def close(self) -> None:
        """Write the snapshot, stop following."""
        await self.keep_up()
        await asyncio.to_thread(self._control.close)

    async def _adopt_late(self) -> None:
        if not self._control.caught_up or self._control.problem:
            return
        try:
            await self.adopt(self._config)
        except Problem as problem:
            if self.adopting != problem.detail:
                log.error("the experiments of the file are not adopted: %s", problem.detail)
            self.adopting = problem.detail

    async def _change(self, decide: Decide) -> Draft:
        draft = await _available(asyncio.to_thread(self._control.change, decide))
        for event in draft.events:
            told = event.attributes
            log.info("control: %s %s by %s: %s", told["action"], event.experiment or "-", told["who"], told["why"])
        return draft

    def _memory(self) -> Adopted | None:
        """What the file of this gateway said before; None where there is no other gateway, and it need not be known."""
        return self._adopted.read() if self._control.shared else None

    def _look(self) -> None:
        with self._looking:
            self.view = look(self._control.ledger, self._config)


async def _available(work: Awaitable[T]) -> T:
    try:
        return await work
    except LogFull as error:
        raise Unavailable(
            "the event log is full, and a change must be recorded first", headers=retry_after(error.retry_after_seconds)
        ) from None
    except ControlAway as error:
        raise Unavailable(str(error), headers=retry_after(RETRY_SECONDS)) from None
    except OSError as error:
        raise Unavailable(
            f"the event log cannot be written ({error.strerror or error}), and a change must be recorded first",
            headers=retry_after(RETRY_SECONDS),
        ) from None


def _admit(draft: Draft, config: Config, announcement: Mapping[str, Any]) -> None:
    changes.admit(draft, config, announcement)


def actions() -> tuple[str, ...]:
    """What can be done to an experiment by name."""
    return tuple(AFTER)
