"""The ways in which the units of a table are parted: by arm, and within it by period, stratum and dimension."""

import msgspec
import numpy as np

from analytics.analyze.gram import Partition
from analytics.analyze.table import Codes, Table, TableError
from analytics.analyze.units import Units

MOST_PARTS = 1000


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """Units by one column: `names` of its values, `codes` [units]; the cell of value i and arm k is i x arms + k. `changed` units
    have rows that say something else than their first."""

    column: str
    names: list[str]
    codes: Codes
    partition: Partition
    changed: int

    def cell(self, value: int, arm: int, arms: int) -> int:
        return value * arms + arm


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """By arm; and with it by what was asked for, None or empty where nothing was."""

    arms: Partition
    periods: Parts | None
    strata: Parts | None
    breakdowns: list[Parts]


def split(table: Table, units: Units, period: str | None, stratify: str | None, breakdowns: list[str]) -> Split:
    """Raises TableError for columns that name too many values."""
    return Split(
        arms=Partition(units.arm, len(units.arms)),
        periods=_parts(table, units, period, "--period") if period else None,
        strata=_parts(table, units, stratify, "--stratify") if stratify else None,
        breakdowns=[_parts(table, units, column, "--breakdown") for column in breakdowns],
    )


def _parts(table: Table, units: Units, column: str, option: str) -> Parts:
    labels = table.labels(column)
    if len(labels.names) > MOST_PARTS:
        raise TableError(
            f"{table.path}: column {column!r} ({option}) holds {len(labels.names):,} different values; give one with at most {MOST_PARTS:,}"
        )
    codes, changed = units.first(labels)
    arms = len(units.arms)
    return Parts(
        column=column,
        names=labels.names,
        codes=codes,
        partition=Partition(np.asarray(codes * arms + units.arm), len(labels.names) * arms),
        changed=changed,
    )


def counts(units: Units, parts: Parts | None) -> list[dict[str, int]]:
    """Units per arm, in each value of `parts` (None: all together)."""
    arms = len(units.arms)
    values = 1 if parts is None else len(parts.names)
    codes = units.arm if parts is None else parts.codes * arms + units.arm
    found = np.bincount(codes, minlength=values * arms).reshape(values, arms)
    return [{arm: int(found[i, k]) for k, arm in enumerate(units.arms)} for i in range(values)]
