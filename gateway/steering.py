"""Experiments that move by themselves: policies that are due, ramps, winners and harm, looked at every few seconds.

Nothing here is in the way of a request: reading is done in threads, and while there are no reports everything stays as it is.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from analytics.events import utc_now
from gateway.config import Config
from gateway.decisions import Decisions
from gateway.experiments import Experiments
from gateway.ledger import Life
from gateway.metrics import Labelled, Metrics
from gateway.policies import due_at, every_minutes, move
from gateway.problems import Problem
from gateway.ramps import next_share, why_not_yet
from gateway.reports import Reports
from gateway.verdicts import Verdict, acts, carry_out, verdict

if TYPE_CHECKING:
    from analytics.report.schema import Report

log = logging.getLogger(__name__)
LOOK_SECONDS = 2.0
# The soonest second look at a policy that had no news, or no reports.
SOONEST_SECONDS = 10.0
# A report can change the experiment: it is judged this often, though `judge_every_minutes` be longer or 0.
JUDGE_SECONDS = 60.0


class Steering:
    """Looks, and carries out. `problems`: by experiment, why its policy does not move it now; `waits`: what its ramp waits for, as
    the last report here found it."""

    def __init__(
        self, experiments: Experiments, reports: Reports, decisions: Decisions, metrics: Metrics, config: Callable[[], Config]
    ) -> None:
        self._experiments, self._reports, self._decisions, self._metrics, self._config = experiments, reports, decisions, metrics, config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: dict[str, float] = {}
        self._judged: dict[str, float] = {}
        self.problems: dict[str, str] = {}
        self.waits: dict[str, str] = {}
        decisions.heard = self.hear
        metrics.gauges({"salon_arm_weight": "The arm's weight in a running experiment"}, ("experiment", "arm"), self._weights)
        metrics.gauges({"salon_policy_held": "1 while a policy cannot move its experiment, else 0"}, ("experiment",), self._held)

    def start(self) -> None:
        """Called in the event loop that changes are made in."""
        self._loop = asyncio.get_running_loop()

    def hear(self, life: Life, report: "Report") -> None:
        """A report was made of the experiment as it was: what it decides by itself is done beside whoever asked. From any thread."""
        found = verdict(life, report, report.as_of)
        if next_share(life) is not None:
            self.waits[life.name] = why_not_yet(life, report, report.as_of)
        else:
            self.waits.pop(life.name, None)
        if found is not None and self._loop is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._carry_out(found), self._loop)

    async def look(self) -> None:
        """At every running experiment: move it if its policy is due, judge it if a report may change it."""
        running = [life for life in self._experiments.lives.values() if life.state == "running"]
        names = {life.name for life in running}
        self.problems = {name: text for name, text in self.problems.items() if name in names}
        for life in running:
            try:
                await self._move(life)
                await self._judge(life)
            except Problem as problem:
                self._hold(life.name, problem.detail)
            except Exception as error:
                # One experiment that cannot be steered must not keep the others from it.
                log.exception("experiment %s cannot be steered", life.name)
                self._hold(life.name, f"{type(error).__name__}: {error}")

    async def _move(self, life: Life) -> None:
        due, minutes, clock = due_at(life), every_minutes(life), time.monotonic()
        now = utc_now()
        if due is None or minutes is None or now < due or clock < self._again.get(life.name, 0.0):
            return
        self._again[life.name] = clock + SOONEST_SECONDS
        decide = await asyncio.to_thread(move, life, self._reports, self._config().metrics, now)
        self._again[life.name] = clock + max(minutes * 60, SOONEST_SECONDS)
        self.problems.pop(life.name, None)
        if decide is None:
            return
        draft = await self._experiments.steer(decide)
        for event in draft.events:
            self._metrics.policy(life.name, event.attributes["action"])

    async def _judge(self, life: Life) -> None:
        minutes, clock = self._config().gateway.judge_every_minutes, time.monotonic()
        seconds = min(JUDGE_SECONDS, minutes * 60) if minutes else JUDGE_SECONDS
        if not acts(life) or clock < self._judged.get(life.name, 0.0) + seconds:
            return
        self._judged[life.name] = clock
        await asyncio.to_thread(self._decisions.judge, (life,), self._config().metrics)

    async def _carry_out(self, found: Verdict) -> None:
        try:
            draft = await self._experiments.steer(lambda draft: carry_out(draft, self._config(), found))
        except Problem as problem:
            log.error("experiment %s: %s waits for the next report: %s", found.of.name, found.what, problem.detail)
            return
        except Exception:
            log.exception("experiment %s: %s failed", found.of.name, found.what)
            return
        if draft.events:
            self._metrics.policy(found.of.name, found.what)

    def _hold(self, name: str, reason: str) -> None:
        told = f"it stays as it is: {reason}"
        if self.problems.get(name) != told:
            log.warning("the policy of experiment %s: %s", name, told)
        self.problems[name] = told

    def _weights(self) -> Iterable[Labelled]:
        for life in tuple(self._experiments.lives.values()):
            if life.state == "running":
                for arm, weight in life.allocation.weights.items():
                    yield (life.name, arm), {"salon_arm_weight": weight}

    def _held(self) -> Iterable[Labelled]:
        for life in tuple(self._experiments.lives.values()):
            if life.state == "running" and every_minutes(life) is not None:
                yield (life.name,), {"salon_policy_held": float(life.name in self.problems)}
