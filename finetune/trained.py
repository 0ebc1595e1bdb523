"""Whose feedback trained a candidate, as events: what these units do afterwards is no test of it."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from analytics.events import Event, derived_id
from finetune.plan import Plan


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """How many units were recorded under the candidate's digest; `gone`: learnt from, and erased or out of the log since."""

    units: int
    gone: int
    variant_digest: str


def trained_events(plan: Plan, units: Iterable[str], variant_digest: str, read_at: datetime) -> list[Event]:
    """One event of kind `trained` per unit, in alphabetical order. The same round and unit make the same id.

    `read_at`: when the units were read. It stands as `received_at`: who is erased after that is covered by the erasure,
    however long the training took.
    """
    return [
        Event(
            event_id=derived_id(plan.created_at, "trained", plan.name, variant_digest, unit),
            kind="trained",
            occurred_at=min(plan.created_at, read_at),
            received_at=read_at,
            route=plan.options.route,
            unit=unit,
            variant_digest=variant_digest,
            attributes={"round": plan.name},
        )
        for unit in sorted(set(units))
    ]
