"""From events to states, from states to statistics, and a report from stored facts: rows/s, CPU-seconds, MB above the engine, ms.

python benchmarks/statistics/states.py [--events 10000000] [--units 1000000] [--part events|units]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

sys.path[:0] = [str(Path(__file__).parents[1])]

from machine import machine  # noqa: E402

from analytics.events import utc_now  # noqa: E402
from analytics.experiment import Experiment, Metric  # noqa: E402
from analytics.facts import ArmFacts, ExperimentFacts, Joint, Moments, WeightPeriod  # noqa: E402
from analytics.report.build import build_report, report_now  # noqa: E402
from analytics.warehouse.client import Warehouse  # noqa: E402
from analytics.warehouse.dirty import mark_days  # noqa: E402
from analytics.warehouse.facts import facts_from_events, read_facts  # noqa: E402
from analytics.warehouse.marks import mark_all  # noqa: E402
from analytics.warehouse.moments import read_sums  # noqa: E402
from analytics.warehouse.rollups import rebuild_dirty  # noqa: E402
from analytics.warehouse.unit_table import Units  # noqa: E402

T = TypeVar("T")
DAYS, FIRST = 5, date(2026, 3, 1)
ARMS = {"base": 0.4, "vivid": 0.3, "pale": 0.3}
METRICS = {
    **{f"mean{i}": Metric(kind="mean", event=kind, covariate_days=7) for i, kind in enumerate(("like", "convert", "share", "click"))},
    **{
        f"share{i}": Metric(kind="proportion", event=kind, covariate_days=7) for i, kind in enumerate(("like", "convert", "share", "click"))
    },
    "ctr": Metric(kind="ratio", event="click", denominator="view", covariate_days=7),
    "liked": Metric(kind="ratio", event="like", denominator="view", covariate_days=7),
}
EXPERIMENT = Experiment(route="hero", arms=ARMS, control="base", primary="mean0", secondary=tuple(list(METRICS)[1:]))
# 25 events of each unit, one of them its exposure after two days; what it did before is in no experiment. Made inside the engine:
# this measures states, not inserts.
EVENTS = """INSERT INTO events (event_id, kind, occurred_at, received_at, route, experiment, arm, unit, propensity, value, flags, status,
    queue_ms, service_ms, schema_version)
SELECT dateTimeToUUIDv7(toDateTime(at, 'UTC')) AS event_id,
    if(first, 'exposure', ['view', 'view', 'click', 'like', 'convert', 'share', 'image', 'generation'][1 + number % 8]) AS kind,
    at, at, 'hero', if(at < exposed, '', 'bench'), if(at < exposed, '', ['base', 'vivid', 'pale'][1 + u % 3]), concat('u', toString(u)),
    if(first, 0.33, NULL), if(kind = 'convert', (number % 1000) / 10, NULL), 0, if(kind = 'generation', 'ok', ''),
    if(kind = 'generation', 5, NULL), if(kind = 'generation', 300 + number % 100, NULL), 2
FROM (SELECT number, cityHash64(intDiv(number, 25), 7) AS u, number % 25 = 0 AS first,
    toDateTime64('2026-03-01 00:00:00', 6, 'UTC') AS start, start + toIntervalSecond(172800 + u % 3600) AS exposed,
    if(first, exposed, start + toIntervalSecond(cityHash64(number) % ({days} * 86400 - 2))) AS at
    FROM numbers({start}, {count}))"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--units", type=int, default=1_000_000, help="per arm")
    parser.add_argument("--part", choices=("events", "units"))
    options = parser.parse_args()
    if options.part == "events":
        from_events(options.events)
    elif options.part == "units":
        from_units(options.units)
    else:
        print(machine("chdb", "clickhouse-connect", "numpy"), flush=True)
        # A process each: memory is of one thing only. A million units in all, which `peers.py` measures too, then in each arm.
        sizes = [["--part", "units", "--units", str(units)] for units in (options.units // 3, options.units)]
        for part in (["--part", "events", "--events", str(options.events)], *sizes):
            subprocess.run([sys.executable, __file__, *part], check=True)


def from_events(count: int) -> None:
    """Days from events to states, facts from states, then stored ones."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse.open(f"chdb://{folder}")
        warehouse.migrate()
        days = [FIRST + timedelta(days=n) for n in range(DAYS)]
        block = 2_000_000
        with warehouse.connections.client() as client:
            for start in range(0, count, block):
                sql = EVENTS.format(days=DAYS, start=start, count=min(block, count - start))
                client.command(sql, settings={"insert_deduplicate": 0, "async_insert": 0})
            mark_days(client, days, "benchmark")
            mark_all(client)
        ((rows, units),) = warehouse.query("SELECT count(), uniqExact(unit) FROM events")
        print(f"{rows:,} events of {units:,} units over {DAYS} days, 10 metrics with CUPED", flush=True)
        wall, cpu, _ = timed(lambda: facts_from_events(warehouse, "bench", EXPERIMENT, METRICS))
        print(f"facts from the events alone        {wall:8.2f} s {cpu:8.2f} CPU-s {rows / wall:12,.0f} events/s", flush=True)
        wall, cpu, done = timed(lambda: rebuild_dirty(warehouse))
        assert len(done) == DAYS
        ((states, size),) = warehouse.query("SELECT sum(rows), sum(bytes_on_disk) FROM system.parts WHERE table = 'unit_daily' AND active")
        print(f"events to daily states             {wall:8.2f} s {cpu:8.2f} CPU-s {rows / wall:12,.0f} events/s", flush=True)
        print(f"   {states:,} rows of states, {size / rows:.1f} bytes on disk an event")
        wall, cpu, _ = timed(lambda: read_facts(warehouse, "bench", EXPERIMENT, METRICS))
        print(f"facts from states of all days      {wall:8.2f} s {cpu:8.2f} CPU-s {rows / wall:12,.0f} events/s", flush=True)
        with warehouse.connections.client() as client:
            client.command(EVENTS.format(days=1, start=count, count=25_000), settings={"insert_deduplicate": 0, "async_insert": 0})
            mark_days(client, days[:1], "more")
            mark_all(client)
        wall, cpu, _ = timed(lambda: read_facts(warehouse, "bench", EXPERIMENT, METRICS))
        print(f"the same, one day of {DAYS} not rolled up {wall:7.2f} s {cpu:8.2f} CPU-s", flush=True)
        took = [1000 * timed(lambda: report_now(warehouse, "bench", EXPERIMENT, METRICS))[0] for _ in range(30)]
        facts = [1000 * timed(lambda: read_facts(warehouse, "bench", EXPERIMENT, METRICS))[0] for _ in range(30)]
        shown = f"{statistics.median(facts):8.1f} ms, report with statistics {statistics.median(took):.1f} ms (medians of 30)"
        print(f"stored facts read again            {shown}")
        warehouse.close()


def from_units(per_arm: int) -> None:
    """3 arms, 8 means and 2 ratios with CUPED: 24 columns, from the units' table to a report."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse.open(f"chdb://{folder}")
        means = [[f"m{2 * i}", f"m{2 * i + 1}"] for i in range(8)]
        ratios = [[f"m{16 + 4 * i + j}" for j in range(4)] for i in range(2)]
        columns = [name for block in (*means, *ratios) for name in block]
        with warehouse.connections.client() as client:
            kinds = ", ".join(f"{name} Float64 CODEC(LZ4)" for name in columns)
            client.command(f"CREATE TABLE units (arm UInt8, {kinds}) ENGINE = MergeTree ORDER BY arm")
            # A covariate beside each number; with digits enough that compression finds nothing.
            numbers = [f"randNormal({3 + n % 5}, 1, {n}) + {'0' if n % 2 == 0 else f'm{n - 1}'} AS m{n}" for n in range(len(columns))]
            made = f"SELECT 1 + number % 3 AS arm, {', '.join(numbers)} FROM numbers({3 * per_arm})"
            client.command(f"INSERT INTO units SELECT arm, {', '.join(columns)} FROM ({made})")
            client.command("OPTIMIZE TABLE units FINAL")
        units = Units(warehouse, "units", 3)
        blocks = dict(zip(METRICS, (*means, *ratios), strict=True))
        units.query("SELECT sum(m0 * m1), varPopStable(m2) FROM units GROUP BY arm")  # the engine is awake
        floor = peak_mb()
        taken = [timed(lambda: read_sums(units, blocks, ["arm"])) for _ in range(7)]
        above = peak_mb() - floor
        wall, cpu, sums = min(taken, key=lambda each: each[1])
        print(f"{per_arm:,} units in each of 3 arms, 10 metrics with CUPED, 24 columns:")
        print(f"   to moments {wall:.3f} s, {cpu:.3f} CPU-s, {above:.0f} MB above the engine")
        built = [timed(lambda: build_report("bench", EXPERIMENT, METRICS, facts_of(sums, per_arm), utc_now())) for _ in range(7)]
        print(f"   moments to the report: {1000 * min(each[1] for each in built):.1f} CPU-ms")
        warehouse.close()


def facts_of(sums: dict, per_arm: int) -> ExperimentFacts:  # type: ignore[type-arg]
    """What the warehouse would hand over."""
    moments: dict[str, dict[str, Moments]] = {}
    joint: dict[str, dict[str, Joint]] = {}
    arms = list(ARMS)
    for name, by_arm in sums.items():
        ratio = METRICS[name].kind == "ratio"
        moments[name] = {arms[arm - 1]: one.moments(ratio) for (arm,), one in by_arm.items()}
        joint[name] = {arms[arm - 1]: one.joint(ratio, (name,), (ratio,)) for (arm,), one in by_arm.items()}
    now = utc_now()
    counted = [
        ArmFacts(
            arm=arm, units=per_arm, generations=0, images=0, failures=0, latency_p50_ms=None, latency_p95_ms=None, variant_digest="",
            mean_inverse_propensity=None,
        )
        for arm in arms
    ]  # fmt: skip
    third = dict.fromkeys(arms, 1 / 3)
    return ExperimentFacts(
        experiment="bench", started_at=now - timedelta(days=9), data_as_of=now, events_read=0, flagged_events=0, bot_units=0, late_events=0,
        multiple_exposure=0, generations_without_exposure=0, arms=counted, metrics=moments, latency={}, joint=joint,
        periods=[WeightPeriod(started_at=now, weights=third, units=dict.fromkeys(arms, per_arm))],
    )  # fmt: skip


def timed(call: Callable[[], T]) -> tuple[float, float, T]:
    """Wall and CPU seconds of the whole process, engine included."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
