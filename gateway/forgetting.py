"""Forgetting a person: in every place that this gateway reaches, and, asked by another gateway, in the places that are its own."""

import asyncio
import logging
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from analytics.event_log import EventLog
from gateway.answers import Answers
from gateway.erased import Erased
from gateway.experiments import Experiments
from gateway.images_store import ImagesStore
from gateway.problems import Unavailable, retry_after
from gateway.recent import Recent
from gateway.reports import Reports
from gateway.sticky import Sticky

log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
# Two gateways' clocks differ; what this one wrote a moment after the other's erasure may be from before it.
CLOCKS = timedelta(seconds=10)
T = TypeVar("T")


class Forgetting:
    """`kafka_retention_hours`: how long the topic keeps what was sent to it; None without Kafka."""

    def __init__(
        self,
        erased: Erased,
        experiments: Experiments,
        event_log: EventLog,
        store: ImagesStore,
        answers: Answers,
        recent: Recent,
        sticky: Sticky,
        reports: Reports,
        kafka_retention_hours: int | None = None,
    ) -> None:
        self._erased, self._experiments, self._log = erased, experiments, event_log
        self._store, self._answers, self._recent, self._sticky, self._reports = store, answers, recent, sticky, reports
        self._kafka_retention_hours = kafka_retention_hours
        self._told: str | None = None

    async def forget(self, unit: str, who: str) -> dict[str, Any]:
        """Delete all that is kept of a unit, look that it is gone, and return a receipt of what was deleted where.

        Raises Unavailable when anything is left: ask again, until there is a receipt.
        """
        self._recent.erase(unit)
        # First of all, so that no feedback slips in behind what is deleted below; and the other gateways at once.
        at = await _done("the list of erased units", asyncio.to_thread(self._erased.add, unit))
        await self._experiments.publish_erasure(self._erased.hash(unit), at)
        generations, pictures = await _done("the image store", asyncio.to_thread(self._store.erase, unit))
        rows, tables = await _done("event log and warehouse", asyncio.to_thread(self._reports.erase, unit))
        answers = await _done("kept answers", self._answers.erase(unit))
        remembered = await _done("remembered assignments", self._sticky.erase(unit))
        counts = {
            "event_rows": rows + sum(count for table, count in tables.items() if table.startswith("events")),
            "generations": generations, "pictures": pictures, "kept_answers": answers, "assignments": remembered,
        }  # fmt: skip
        await self._experiments.note("erase", who, "a person asked to be forgotten", counts)
        places: dict[str, Any] = {"event_log": rows, "warehouse": tables, "generations": generations, "pictures": pictures}
        places |= {"kept_answers": answers, "assignments": remembered}
        receipt: dict[str, Any] = {"erased": counts, "at": at, "checked": True, "places": places}
        if self._kafka_retention_hours is not None:
            receipt["kafka_copies_expire_by"] = at + timedelta(hours=self._kafka_retention_hours)
        return receipt

    async def follow(self) -> None:
        """Delete what this gateway keeps of units that other gateways erased. What fails is logged, and tried at the next call."""
        to_do = self._erased.to_do()
        if not to_do:
            return
        try:
            units = await asyncio.to_thread(self._log.units)
            named = {self._erased.hash(unit): unit for unit in (*units, *self._recent.units())}
            for unit_hash, at in to_do.items():
                await self._follow_one(unit_hash, named.get(unit_hash), at)
            self._told = None
        except OSError as error:
            if self._told != str(error):
                log.error("units that other gateways erased are not yet deleted here: %s", error)
            self._told = str(error)

    async def _follow_one(self, unit_hash: str, unit: str | None, at: datetime) -> None:
        rows = 0
        if unit is not None:
            self._recent.erase(unit)
            rows = await asyncio.to_thread(self._log.erase, unit, at + CLOCKS)
        answers = await self._answers.erase_hash(unit_hash)
        remembered = await self._sticky.erase_hash(unit_hash)
        await asyncio.to_thread(self._erased.done, unit_hash, at)
        log.info(
            "a unit that another gateway erased is gone here too: %d events, %d kept answers, %d assignments", rows, answers, remembered
        )


async def _done(place: str, work: Awaitable[T]) -> T:
    try:
        return await work
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise Unavailable(f"not everything could be deleted ({place}: {reason}); ask again", headers=retry_after(RETRY_SECONDS)) from None
