"""The records of the control topic. Each is the whole state of its key, for compaction keeps only the last one of a key.

experiment:NAME   the experiment, the events that made it so, the variants that it brought
shipped:ROUTE     the arm that was shipped on a route
erased:HASH       when a unit was erased; its keyed hash, never its name
token-key         the fingerprint of the token key that all gateways share
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from analytics.events import Event
from gateway.changes import Draft
from gateway.ledger import Ledger, Life, Shipped
from serving.variant import Variant

SCHEMA_VERSION = 1
EXPERIMENT, SHIPPED, ERASED, TOKEN_KEY = "experiment:", "shipped:", "erased:", "token-key"


class ExperimentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`writer` is the gateway whose spool takes `events` to the event log."""

    schema_version: int = SCHEMA_VERSION
    writer: str
    events: tuple[Event, ...]
    life: Life
    variants: dict[str, Variant]


class ShippedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a route serves until its section in the file changes."""

    schema_version: int = SCHEMA_VERSION
    shipped: Shipped


class ErasedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """When a person was forgotten."""

    schema_version: int = SCHEMA_VERSION
    at: datetime


class TokenKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A fingerprint tells keys apart and says nothing about the key."""

    schema_version: int = SCHEMA_VERSION
    fingerprint: str


Record = ExperimentRecord | ShippedRecord | ErasedRecord | TokenKeyRecord


class Unreadable(ValueError):
    """A record that this version cannot read; the text names its key."""


def read_record(key: bytes, value: bytes) -> Record | None:
    """One record of the topic; None for a kind of key that is not known here. Raises Unreadable."""
    name = key.decode("utf-8", "replace")
    kinds: dict[str, type[Record]] = {EXPERIMENT: ExperimentRecord, SHIPPED: ShippedRecord, ERASED: ErasedRecord, TOKEN_KEY: TokenKeyRecord}
    kind = next((kind for prefix, kind in kinds.items() if name.startswith(prefix)), None)
    if kind is None:
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError as error:
        raise Unreadable(
            f"the control record {name!r} cannot be read here ({error}): if another gateway is newer, upgrade this one"
        ) from None


def put(ledger: Ledger, key: bytes, record: Record) -> Ledger:
    """The ledger with one record's state in it. Records of erasures are not kept in the ledger."""
    if isinstance(record, ExperimentRecord):
        lives = {**ledger.lives, record.life.name: record.life}
        return msgspec.structs.replace(ledger, lives=lives, variants={**ledger.variants, **record.variants})
    if isinstance(record, ShippedRecord):
        route = key.decode().removeprefix(SHIPPED)
        return msgspec.structs.replace(ledger, shipped={**ledger.shipped, route: record.shipped})
    if isinstance(record, TokenKeyRecord):
        return msgspec.structs.replace(ledger, token_key=record.fingerprint)
    return ledger


def records_of(before: Ledger, draft: Draft, writer: str) -> dict[bytes, bytes]:
    """The records that make a draft true, by key."""
    after = draft.ledger
    changed = {event.experiment for event in draft.events if event.experiment in after.lives}
    found: dict[str, Record] = {f"{EXPERIMENT}{name}": _experiment(after, name, draft.events, writer) for name in sorted(changed)}
    for route, shipped in after.shipped.items():
        if before.shipped.get(route) != shipped:
            found[f"{SHIPPED}{route}"] = ShippedRecord(shipped=shipped)
    found |= _facts(draft.erased, draft.token_key)
    return {key.encode(): msgspec.json.encode(record) for key, record in found.items()}


def whole(ledger: Ledger, erased: Mapping[str, datetime], writer: str) -> dict[bytes, bytes]:
    """All records of a state, for a topic that has lost them. The events are in the event log already."""
    found: dict[str, Record] = {f"{EXPERIMENT}{name}": _experiment(ledger, name, [], writer) for name in ledger.lives}
    found |= {f"{SHIPPED}{route}": ShippedRecord(shipped=shipped) for route, shipped in ledger.shipped.items()}
    found |= _facts(erased, ledger.token_key)
    return {key.encode(): msgspec.json.encode(record) for key, record in found.items()}


def _experiment(ledger: Ledger, name: str, events: list[Event], writer: str) -> ExperimentRecord:
    life = ledger.lives[name]
    variants = {arm: ledger.variants[arm] for arm in life.declared.arms if arm in ledger.variants}
    return ExperimentRecord(writer=writer, events=tuple(e for e in events if e.experiment == name), life=life, variants=variants)


def _facts(erased: Mapping[str, datetime], token_key: str) -> dict[str, Record]:
    found: dict[str, Record] = {f"{ERASED}{unit}": ErasedRecord(at=at) for unit, at in erased.items()}
    if token_key:
        found[TOKEN_KEY] = TokenKeyRecord(fingerprint=token_key)
    return found
