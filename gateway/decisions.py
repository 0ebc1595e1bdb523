"""Reports that remember: each change of what a report recommends becomes one event, whoever asked for the report."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from analytics.decision_event import PastDecision, change_of_mind, past_decision
from analytics.event_log import EventLog, LogFull
from analytics.experiment import Metric
from gateway.ledger import Life
from gateway.reports import Reports

if TYPE_CHECKING:
    from analytics.report.schema import Report

log = logging.getLogger(__name__)


class Decisions:
    """Makes reports, and logs what they decide when it is not what was decided before. All calls but `last` block.

    `heard` is called, in the thread that asked, with each report that is a decision and the experiment as it was read.
    """

    def __init__(self, reports: Reports, event_log: EventLog) -> None:
        self._reports, self._log = reports, event_log
        self.heard: Callable[[Life, Report], None] = lambda life, report: None
        self._known: dict[str, PastDecision] = {}
        self._noting = threading.Lock()

    def last(self, name: str) -> PastDecision | None:
        """What this gateway last knew to be decided; None before its first report on the experiment."""
        return self._known.get(name)

    def report(
        self, name: str, life: Life, metrics: Mapping[str, Metric], as_of: datetime | None = None, flagged: bool = False
    ) -> "Report":
        """The report. One of now, without flagged events, is also a decision: it is noted. Raises Unavailable."""
        made = self._reports.report(name, life.experiment, metrics, as_of, flagged)
        if as_of is None and not flagged:
            self._note(made)
            self.heard(life, made)
        return made

    def judge(self, lives: Iterable[Life], metrics: Mapping[str, Metric]) -> None:
        """A report on every experiment that runs, so that a change is noted though nobody asks."""
        for life in lives:
            if life.state != "running":
                continue
            try:
                self.report(life.name, life, metrics)
            except Exception as error:
                # One experiment that cannot be judged now must not keep the others from it; the next round tries again.
                log.warning("experiment %s is not judged this time: %s", life.name, error)

    def _note(self, report: "Report") -> None:
        with self._noting:
            last = max((d for d in (self._known.get(report.experiment), *report.decision.history[-1:]) if d), key=_when, default=None)
            if last is not None:
                self._known[report.experiment] = last
            event = change_of_mind(report, last)
            if event is None:
                return
            try:
                self._log.submit([event], reserve=True).result()
            except (LogFull, OSError) as error:
                log.warning("the decision on %s is not in the event log; the next report tries again: %s", report.experiment, error)
                return
            self._known[report.experiment] = past_decision(event.event_id, event.occurred_at, event.attributes)
        told = event.attributes
        log.info("decision on %s: %s, before: %s", report.experiment, self._known[report.experiment].told, told["previous"] or "none")


def _when(decision: PastDecision) -> datetime:
    return decision.at
