"""The report's numbers once more, from the raw rows of the local log: SQLite, JSON and sums, and nothing of Salon's own code."""

import json
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A metric in one arm: units, mean over units (or the ratio of two means), and the deviation per unit of a mean."""

    n: int
    mean: float | None
    sd: float | None


def raw_rows(file: Path) -> list[dict[str, Any]]:
    """Every event of the log at `file`, as the JSON that lies there, in its order."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
        return [json.loads(data) for (data,) in db.execute("SELECT data FROM events ORDER BY position")]


def times_stored(rows: Sequence[Row]) -> Counter[str]:
    """How often each event_id stands in the log."""
    return Counter(row["event_id"] for row in rows)


def recount(rows: Sequence[Row], experiment: str) -> tuple[int, dict[tuple[str, str], Figure]]:
    """How many events `experiment` has, and (metric, arm) to its figure, for the metrics of benchmarks/gateway_process.py."""
    mine = {row["event_id"]: row for row in rows if row.get("experiment") == experiment}
    counted = [row for row in mine.values() if not row.get("flags", 0) and row.get("unit")]
    exposures = sorted((row for row in counted if row["kind"] == "exposure"), key=_time)
    first = {row["unit"]: row for row in reversed(exposures)}
    arms: dict[str, set[str]] = defaultdict(set)
    for row in exposures:
        arms[row["unit"]].add(row["arm"])
    units = {unit: row["arm"] for unit, row in first.items() if len(arms[unit]) == 1}
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in ("like", "view", "score")}
    points: dict[str, list[float]] = defaultdict(list)
    for row in counted:
        unit = row["unit"]
        if row["kind"] in counts and unit in units and _time(row) >= _time(first[unit]):
            counts[row["kind"]][unit] += 1
            if row["kind"] == "score":
                points[unit].append(row.get("value", 1.0))
    figures: dict[tuple[str, str], Figure] = {}
    for arm in sorted(set(units.values())):
        people = [unit for unit, its in units.items() if its == arm]
        totals = [math.fsum(points[unit]) for unit in people]
        mean = math.fsum(totals) / len(people)
        spread = math.sqrt(math.fsum((total - mean) ** 2 for total in totals) / (len(people) - 1)) if len(people) > 1 else None
        likers = sum(counts["like"][unit] > 0 for unit in people)
        views, scores = (sum(counts[kind][unit] for unit in people) for kind in ("view", "score"))
        figures["like_rate", arm] = Figure(len(people), likers / len(people), None)
        figures["points", arm] = Figure(len(people), mean, spread)
        figures["scores_per_view", arm] = Figure(len(people), scores / views if views else None, None)
    return len(mine), figures


def differences(report: Row, events: int, figures: Mapping[tuple[str, str], Figure]) -> list[str]:
    """Where the report says something else than the recount; empty when they agree to 1e-9."""
    wrong = [] if report["events_read"] == events else [f"events_read is {report['events_read']}, the log has {events}"]
    said = {(metric["metric"], arm["arm"]): arm for metric in report["metrics"] for arm in metric["arms"]}
    for (metric, arm), figure in figures.items():
        found = said.get((metric, arm))
        if found is None:
            wrong.append(f"{metric} of {arm} is not in the report")
            continue
        pairs = [("n", found["n"], figure.n), ("mean", found["mean"], figure.mean)]
        if figure.sd is not None:
            pairs.append(("sd", found["sd"], figure.sd))
        wrong += [f"{metric} of {arm}: {name} is {a}, recounted {b}" for name, a, b in pairs if not _same(a, b)]
    return wrong


def _same(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def _time(row: Row) -> datetime:
    return min(datetime.fromisoformat(row["occurred_at"]), datetime.fromisoformat(row["received_at"]))
