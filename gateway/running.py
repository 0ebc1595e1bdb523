"""A gateway that runs: its parts, what it watches in the background, and whether it is ready."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from analytics.settings import Document, SettingsError
from gateway.adopted import AdoptedFile
from gateway.answers import Answers
from gateway.config import Config, load
from gateway.control_log import open_control
from gateway.decisions import Decisions
from gateway.engines import Engines
from gateway.equalise import Equaliser
from gateway.erased import Erased
from gateway.experiments import Experiments
from gateway.forgetting import Forgetting
from gateway.gallery import Gallery
from gateway.images_store import ImagesStore
from gateway.journal import Journal
from gateway.keys import KeyRing
from gateway.latency import Latencies
from gateway.ledger import Life
from gateway.metrics import Metrics
from gateway.plans import View
from gateway.problems import Problem, Unavailable
from gateway.rates import Rates
from gateway.recent import Recent
from gateway.reports import Reports
from gateway.spooling import Spooling
from gateway.steering import LOOK_SECONDS, Steering
from gateway.sticky import Sticky
from gateway.tokens import Sealer, fingerprint, read_or_make_key
from serving.engine import Loaded
from serving.registry import Registry

log = logging.getLogger(__name__)
WATCH_SECONDS, ROUNDS_SECONDS, SNAPSHOT_SECONDS = 1.0, 2.0, 60.0
REPORTS_WAIT_SECONDS = 20.0


class Gateway:
    """Made before the server listens (it opens files, so it blocks); `start` and `stop` belong to the event loop.

    Raises ValueError or OSError when the configuration cannot be true here.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._runs_with = config.fixed_parts()
        self.notes: dict[str, str] = {}
        self.keys = KeyRing(config.keys_path)
        self.keys.refresh()
        state = config.var / "state"
        state.mkdir(parents=True, exist_ok=True)
        key = read_or_make_key(config.token_key_path)
        self.sealer = Sealer(key)
        self.erased = Erased(state / "erased.jsonl", key)
        self.registry = Registry(config.registry_url)
        self.store = ImagesStore(config.images_url)
        self.spooling = Spooling(config.analytics.events)
        self.event_log = self.spooling.event_log
        try:
            control = open_control(config, self.event_log, state, self.erased)
            self.experiments = Experiments(control, self.event_log, AdoptedFile(state / "adopted.json"), config, fingerprint(key))
            self.experiments.check(config)
        except Problem as problem:
            self.event_log.close()
            raise ValueError(f"{config.path or 'defaults'}: {problem.detail}") from None
        self.journal = Journal(self.event_log)
        self.reports = Reports(self.event_log, config.analytics.warehouse.url, config.analytics.events.kafka)
        self.decisions = Decisions(self.reports, self.event_log)
        self.engines = Engines(config.engines, self.registry, config.var / "cache", config.gateway.max_queue_seconds)
        self.gallery = Gallery(self.engines)
        self.answers = Answers(state / "answers.sqlite", self.erased.hash)
        self.recent = Recent()
        self.sticky = Sticky(state / "sticky.sqlite", self.erased.hash)
        retention_hours = config.analytics.events.kafka.retention_hours if config.analytics.events.kafka else None
        self.forgetting = Forgetting(
            self.erased, self.experiments, self.event_log, self.store, self.answers, self.recent, self.sticky, self.reports,
            retention_hours,
        )  # fmt: skip
        self.rates = Rates(config.gateway.suspicious_events_per_minute)
        self.latencies, self.equaliser = Latencies(), Equaliser()
        self.metrics = Metrics()
        self.latencies.show(self.metrics, self._running)
        self.steering = Steering(self.experiments, self.reports, self.decisions, self.metrics, lambda: self.config)
        self.metrics.gauge("salon_events_held", "Events of images that wait for the log", lambda: self.journal.held)
        self.metrics.gauge("salon_events_dropped", "Events of images lost because the log was away too long", lambda: self.journal.dropped)
        self.metrics.gauge("salon_queue_seconds", "Predicted work that waits in the engines", self.engines.queue_seconds)
        self.metrics.gauge("salon_warehouse_lag_positions", "Log positions that the warehouse does not have; -1 unknown", self.reports.lag)
        self.metrics.gauge(
            "salon_control_away",
            "1 while experiments cannot be changed or followed, else 0",
            lambda: bool(self.experiments.problems.get("control")),
        )
        self.metrics.gauge("salon_units_to_forget", "Units erased by other gateways and not yet here", lambda: len(self.erased.to_do()))
        self.spooling.show(self.metrics)
        self._stamp: tuple[int, int] | None = self._config_stamp()
        self._warmed: View | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watchers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Make the configuration true, begin to load what routes serve, open the warehouse behind it all."""
        self.spooling.start()
        await self.experiments.begin()
        self.steering.start()
        self.adopt(asyncio.create_task(self._open_reports(self.warm())))
        work = [
            (self._watch, WATCH_SECONDS), (self._follow_others, WATCH_SECONDS), (self._admit_candidates, ROUNDS_SECONDS),
            (self.experiments.keep_up, SNAPSHOT_SECONDS), (self._look_at_spool, WATCH_SECONDS), (self.steering.look, LOOK_SECONDS),
        ]  # fmt: skip
        if self.config.gateway.judge_every_minutes:
            work.append((self._judge, self.config.gateway.judge_every_minutes * 60))
        self._watchers = [asyncio.create_task(self._every(seconds, what)) for what, seconds in work]

    async def stop(self) -> None:
        """Finish what is under way, write what is waiting, close everything."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.wait(self._watchers)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        await self.journal.close()
        await self.experiments.close()
        await asyncio.to_thread(self.spooling.stop)
        await asyncio.to_thread(self.engines.close)
        await asyncio.to_thread(self.reports.close)
        await asyncio.to_thread(self.answers.close)
        await asyncio.to_thread(self.sticky.close)
        await asyncio.to_thread(self.event_log.close)

    def in_background(self, work: Coroutine[Any, Any, None], what: str) -> "asyncio.Task[None]":
        """Run `work` beside the request; a failure is logged, and known to readiness until the next success."""
        task = asyncio.create_task(work)

        def done(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if task.cancelled():
                return
            if error := task.exception():
                log.error("%s failed: %s", what, error)
                self.notes[what] = f"{what} failed: {type(error).__name__}"
            else:
                self.notes.pop(what, None)

        self.adopt(task)
        task.add_done_callback(done)
        return task

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Keep a task alive until it is done, and wait for it at the end."""
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._let_go)

    def warm(self) -> list[Future[Loaded]]:
        """Begin to load every variant that a request could be given now: what routes serve first."""
        self._warmed = view = self.experiments.view
        served = [plan.serve for plan in view.plans.values()]
        arms = [arm for plan in view.plans.values() if plan.life for arm in plan.life.declared.arms]
        return [self.engines.start_loading(view.variants[name]) for name in (*served, *arms)]

    def readiness(self) -> dict[str, Any]:
        """`ready`: every route's own variant is loaded. `details`: what is not as it should be, by part."""
        view = self.experiments.view
        details = {**self.experiments.problems, **self.spooling.problems(), **self.engines.problems(), **self.notes}
        details |= {f"policy of {name}": text for name, text in self.steering.problems.items()}
        ready = True
        for plan in view.plans.values():
            variant = view.variants[plan.serve]
            if self.engines.loaded(variant) is None:
                ready = False
                details[f"route {plan.route}"] = self.engines.failure(variant) or f"variant {plan.serve} is being loaded"
            for arm in plan.life.declared.arms if plan.life else ():
                if failure := self.engines.failure(view.variants[arm]):
                    details[f"arm {arm}"] = failure
        if self.reports.problem:
            details["warehouse"] = self.reports.problem
        if self.sticky.problem:
            details["sticky"] = self.sticky.problem
        if self.journal.held:
            details["events"] = f"{self.journal.held} events of images wait for the log"
        if self.journal.dropped:
            details["lost"] = f"{self.journal.dropped} events of images were lost, because the log took none for too long"
        return {"ready": ready, "details": details}

    async def reload(self) -> None:
        """Read the file again: all of it is taken, or nothing, and then the reason is logged and shown by readiness."""
        try:
            config = await asyncio.to_thread(lambda: load(Document.read(self.config.path)))
            await self.experiments.adopt(config)
        except (SettingsError, Problem) as error:
            told = f"the changed file was refused, the old configuration stays: {error}"
            if isinstance(error, Unavailable):
                # Nothing is wrong with the file: the next look takes it for new.
                self._stamp = None
                told = f"the changed file waits, the old configuration stays until then: {error}"
            if self.notes.get("config") != told:
                log.error("%s", told)
            self.notes["config"] = told
            return
        self.notes.pop("config", None)
        self.notes.pop("restart", None)
        waiting = [name for name, part in config.fixed_parts().items() if part != self._runs_with[name]]
        if waiting:
            self.notes["restart"] = f"changes of {', '.join(f'[{name}]' for name in waiting)} take effect at the next start"
            log.warning("%s", self.notes["restart"])
        changed = [name for name in ("variants", "routes", "metrics", "experiments") if getattr(config, name) != getattr(self.config, name)]
        self.config = config
        self.warm()
        if changed:
            try:
                await self.experiments.note("configure", "config", "the file has changed", {"sections": changed})
            except Problem as problem:
                log.error("the change of configuration is not in the event log: %s", problem.detail)

    async def _open_reports(self, loading: list[Future[Loaded]]) -> None:
        """Open the warehouse once pictures can be made, so that it does not delay them."""
        # a failure is told by readiness, so none is lost with its future
        await asyncio.wait([asyncio.ensure_future(_ended(future)) for future in loading], timeout=REPORTS_WAIT_SECONDS)
        self.reports.start()

    def _let_go(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def _every(self, seconds: float, what: Any) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await what()
            except Exception:
                log.exception("background work failed; it is tried again in %.0f s", seconds)

    def _running(self) -> list[Life]:
        return [plan.life for plan in self.experiments.view.plans.values() if plan.life]

    async def _judge(self) -> None:
        await asyncio.to_thread(self.decisions.judge, tuple(self.experiments.lives.values()), self.config.metrics)

    async def _look_at_spool(self) -> None:
        await asyncio.to_thread(self.spooling.refresh)

    async def _watch(self) -> None:
        try:
            await asyncio.to_thread(self.keys.refresh)
            self.notes.pop("keys", None)
        except (ValueError, OSError) as error:
            if self.notes.get("keys") != str(error):
                log.error("the API keys stay as they were: %s", error)
            self.notes["keys"] = str(error)
        stamp = await asyncio.to_thread(self._config_stamp)
        if stamp is not None and stamp != self._stamp:
            self._stamp = stamp
            await self.reload()

    async def _follow_others(self) -> None:
        """What other gateways have changed: pictures that may be asked for now, people who are to be forgotten here too."""
        await self.experiments.adopt_late()
        if self.experiments.view is not self._warmed:
            self.warm()
        running = [life.name for life in self._running()]
        self.latencies.keep(running)
        self.equaliser.keep(running)
        await self.sticky.drop(life.name for life in self.experiments.lives.values() if life.state in ("stopped", "shipped"))
        await self.forgetting.follow()

    async def _admit_candidates(self) -> None:
        for announcement in await asyncio.to_thread(self.registry.announcements):
            name = str(announcement.get("experiment", "?"))
            try:
                if await self.experiments.admit(announcement):
                    self.warm()
                self.notes.pop(f"candidate {name}", None)
            except (ValueError, KeyError, Problem) as error:
                reason = f"is not usable: {error!s}"
                if self.notes.get(f"candidate {name}") != reason:
                    log.error("the announcement of %s %s", name, reason)
                self.notes[f"candidate {name}"] = reason

    def _config_stamp(self) -> tuple[int, int] | None:
        try:
            status = self.config.path.stat() if self.config.path else None
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size) if status else None


async def _ended(future: Future[Loaded]) -> None:
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await asyncio.wrap_future(future)
