"""A change of mind as an event: a report that recommends something else than the last one logged, and the way back from events."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from analytics.events import Event, derived_id
from analytics.inference.contrast import UNBOUNDED, Interval

if TYPE_CHECKING:
    from analytics.report.schema import Comparison, MetricReport, Report


class PastDecision(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that was logged when it changed. `previous`: the action before, with its arm where it had one; empty for the
    first. `lift` and `always_valid_ci` are of `compared` against the control on the primary metric, as they stood at `at`."""

    event_id: UUID
    at: datetime
    action: str
    arm: str | None
    reason: str
    previous: str = ""
    previous_id: UUID | None = None
    metric: str = ""
    compared: str = ""
    lift: float | None = None
    always_valid_ci: Interval = UNBOUNDED

    @property
    def told(self) -> str:
        """`ship vivid`, `keep_running`."""
        return f"{self.action} {self.arm}" if self.arm else self.action


def change_of_mind(report: "Report", last: PastDecision | None) -> Event | None:
    """The event to log; None where the report decides as `last` did, or is older than it, or nothing has started.

    Gateways that see the same change make the same `event_id`: of the day, the experiment, the decision before and the new one.
    Two that see it on two sides of midnight make two, and `history` takes them for the one change that they are.
    """
    decision, at = report.decision, report.as_of.astimezone(UTC)
    if report.started_at is None or (last is not None and ((last.action, last.arm) == (decision.action, decision.arm) or at < last.at)):
        return None
    before = str(last.event_id) if last else ""
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    attributes = {
        "action": decision.action,
        "arm": decision.arm or "",
        "reason": decision.reason,
        "previous": last.told if last else "",
        "previous_id": before,
        "as_of": at.isoformat(),
        **_evidence(report),
    }
    return Event(
        event_id=derived_id(day, "decision", report.experiment, before, decision.action, decision.arm or ""),
        kind="decision",
        occurred_at=at,
        received_at=at,
        route=report.route,
        experiment=report.experiment,
        attributes=attributes,
    )


def past_decision(event_id: UUID, at: datetime, attributes: Mapping[str, str]) -> PastDecision:
    """Read an event of kind `decision`. What does not read as a number is not known."""
    previous = attributes.get("previous_id", "")
    return PastDecision(
        event_id=event_id,
        at=at,
        action=attributes.get("action", ""),
        arm=attributes.get("arm") or None,
        reason=attributes.get("reason", ""),
        previous=attributes.get("previous", ""),
        previous_id=_uuid(previous),
        metric=attributes.get("metric", ""),
        compared=attributes.get("compared", ""),
        lift=_number(attributes.get("lift")),
        always_valid_ci=(_number(attributes.get("low")), _number(attributes.get("high"))),
    )


def history(decisions: Iterable[PastDecision]) -> list[PastDecision]:
    """Oldest first, each change once, however many gateways told it."""
    seen, kept = set(), []
    for decision in sorted(decisions, key=lambda d: (d.at, d.event_id)):
        change = (decision.previous_id, decision.action, decision.arm)
        if change not in seen:
            seen.add(change)
            kept.append(decision)
    return kept


def _evidence(report: "Report") -> dict[str, str]:
    """The primary metric's lift of the arm decided on, else of the first arm compared, with what holds at any look."""
    primary: MetricReport | None = next((metric for metric in report.metrics if metric.role == "primary"), None)
    if primary is None or not primary.comparisons:
        return {}
    shown: Comparison = next((c for c in primary.comparisons if c.arm == report.decision.arm), primary.comparisons[0])
    low, high = shown.always_valid.relative_ci if shown.always_valid else UNBOUNDED
    numbers = {"lift": shown.relative.value, "low": low, "high": high}
    return {"metric": primary.metric, "compared": shown.arm, **{name: repr(value) for name, value in numbers.items() if value is not None}}


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < float("inf") else None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
