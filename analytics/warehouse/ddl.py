"""The tables, as numbered migrations, for one server and for a cluster. A released migration never changes: append another.

The form for a cluster is parsed by the tests and has never run: no cluster was at hand.
"""

from collections.abc import Sequence

import msgspec

WINDOW_SECONDS = 604_800
SHARDED = frozenset({"events", "exposures", "unit_daily"})
GENERATION_COMMENT = "generation "


class Migration(msgspec.Struct, frozen=True):
    """Statements that bring the schema to `version`; each may run again without harm."""

    version: int
    name: str
    statements: tuple[str, ...]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the MergeTree family. `window`: how many insert tokens it remembers; None: it forgets them."""

    name: str
    columns: str
    engine: str
    arguments: str = ""
    keys: str
    window: int | None = None
    comment: str = ""


class Layout(msgspec.Struct, frozen=True):
    """Where tables lie: on one server (`cluster` None), or on every node of a cluster, with SHARDED ones split by unit."""

    database: str
    cluster: str | None = None

    @property
    def on_cluster(self) -> str:
        """To stand after the table's name in DDL."""
        return f" ON CLUSTER {quoted(self.cluster)}" if self.cluster else ""

    def local(self, name: str) -> str:
        """The table that holds the rows, for ALTER and for views: `name` itself, or each node's part of it."""
        sharded = name in SHARDED or name.rpartition("_")[0] in SHARDED
        return f"{name}_local" if self.cluster and sharded else name

    def create(self, table: Table) -> tuple[str, ...]:
        """CREATE TABLE, and for a sharded table of a cluster the Distributed one in front of it."""
        local = self.local(table.name)
        settings = ["fsync_after_insert = 1", "fsync_part_directory = 1"]
        engine, arguments = table.engine, [table.arguments] if table.arguments else []
        if self.cluster:
            shard = "{shard}" if table.name in SHARDED else "all"
            engine = f"Replicated{engine}"
            # A name that EXCHANGE TABLES cannot make wrong: it counts generations.
            arguments = [f"'/clickhouse/tables/{shard}/{self.database}/{table.name}_g1'", "'{replica}'", *arguments]
        if table.window and self.cluster:
            settings[:0] = [
                f"replicated_deduplication_window = {table.window}",
                f"replicated_deduplication_window_seconds = {WINDOW_SECONDS}",
            ]
        elif table.window:
            settings[:0] = [f"non_replicated_deduplication_window = {table.window}"]
        comment = f"\nCOMMENT '{table.comment}'" if table.comment else ""
        rows = (
            f"CREATE TABLE IF NOT EXISTS {local}{self.on_cluster}\n({table.columns})\n"
            f"ENGINE = {engine}({', '.join(arguments)})\n{table.keys}\nSETTINGS {', '.join(settings)}{comment}"
        )
        return (rows,) if local == table.name else (rows, self.distributed(table.name))

    def distributed(self, name: str) -> str:
        """The table that reads every shard's part of `name` and sends each row to its unit's shard."""
        front = f"Distributed({text(self.cluster or '')}, {text(self.database)}, {text(self.local(name))}, cityHash64(unit))"
        return f"CREATE TABLE IF NOT EXISTS {name}{self.on_cluster} AS {self.local(name)} ENGINE = {front}"

    def alter(self, name: str, change: str) -> str:
        """ALTER TABLE of the rows, on every node."""
        return f"ALTER TABLE {self.local(name)}{self.on_cluster} {change}"

    def add_columns(self, name: str, columns: Sequence[str]) -> tuple[str, ...]:
        """ALTER TABLE of the rows and of the Distributed table in front of them."""
        change = ", ".join(f"ADD COLUMN IF NOT EXISTS {column}" for column in columns)
        rows = self.alter(name, change)
        return (rows,) if self.local(name) == name else (rows, f"ALTER TABLE {name}{self.on_cluster} {change}")

    def view(self, name: str, target: str, select: str) -> str:
        """An incremental materialized view that writes to `target`, shard by shard."""
        return f"CREATE MATERIALIZED VIEW IF NOT EXISTS {name}{self.on_cluster} TO {self.local(target)} AS\n{select}"


SCHEMA_MIGRATIONS = Table(
    name="schema_migrations",
    columns="version UInt32, name String, applied_at DateTime64(6, 'UTC')",
    engine="ReplacingMergeTree",
    arguments="applied_at",
    keys="ORDER BY version",
)

# The first to arrive of two rows with one event_id stays (`earliest` is greatest for the smallest received_at), so that a late
# duplicate cannot change a report as of an earlier time. `day` comes from the UUIDv7, which no retry changes: both rows then meet
# in one partition. With fsync, what a position says is in the table survives a power cut.
EVENTS = Table(
    name="events",
    columns="""
    event_id UUID,
    kind LowCardinality(String),
    occurred_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    route LowCardinality(String),
    experiment LowCardinality(String),
    arm LowCardinality(String),
    variant_digest LowCardinality(String),
    unit String CODEC(ZSTD(1)),
    propensity Nullable(Float64) CODEC(ZSTD(1)),
    generation_id Nullable(UUID),
    image_id Nullable(UUID),
    position Nullable(Int32),
    grid Nullable(Int32),
    value Nullable(Float64) CODEC(ZSTD(1)),
    flags UInt32,
    attributes Map(String, String) CODEC(ZSTD(1)),
    prompt String CODEC(ZSTD(1)),
    seed Nullable(Int64),
    steps Nullable(Int32),
    guidance Nullable(Float64),
    queue_ms Nullable(Float64) CODEC(ZSTD(1)),
    service_ms Nullable(Float64) CODEC(ZSTD(1)),
    status LowCardinality(String),
    schema_version UInt16,
    day Date MATERIALIZED toDate(UUIDv7ToDateTime(event_id, 'UTC')),
    earliest UInt64 MATERIALIZED 18446744073709551615 - toUInt64(greatest(0, toUnixTimestamp64Micro(received_at)))
""",
    engine="ReplacingMergeTree",
    arguments="earliest",
    keys="PARTITION BY toYYYYMMDD(day)\nORDER BY (experiment, kind, day, unit, event_id)",
    window=10_000,
)

# One row says "everything of this log up to `position` is in"; with `pending` > 0 also "the range after it up to `pending` has
# been begun". `version` orders the two.
LOG_POSITIONS = Table(
    name="log_positions",
    columns="log_name String, position UInt64, pending UInt64, version UInt64",
    engine="ReplacingMergeTree",
    arguments="version",
    keys="ORDER BY log_name",
)

# Where a row came from: the log, and for Kafka the partition and the record's offset (-1: no Kafka).
ORIGINS = (
    "sent_at Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD(1))",
    "log_name LowCardinality(String)",
    "log_partition Int32 DEFAULT -1 CODEC(ZSTD(1))",
    "log_offset Int64 DEFAULT -1 CODEC(Delta, ZSTD(1))",
)

# First exposures per unit. Only states that a repeated or reordered row cannot change: an incremental view may see both.
# Every column but the two keys is an aggregate: whatever merges here, merges the same way.
EXPOSURES = Table(
    name="exposures",
    columns="""
    experiment LowCardinality(String),
    unit String CODEC(ZSTD(1)),
    exposed_at SimpleAggregateFunction(min, Int64),
    first_arm AggregateFunction(argMin, String, Tuple(Int64, UUID)),
    chance AggregateFunction(argMin, Tuple(Nullable(Float64)), Tuple(Int64, UUID)),
    arms AggregateFunction(groupUniqArray, String)
""",
    engine="AggregatingMergeTree",
    keys="ORDER BY (experiment, unit)",
    window=10_000,
)
EXPOSURE_STATES = """SELECT e.experiment AS experiment, e.unit AS unit,
    min(least(toUnixTimestamp64Micro(e.occurred_at), toUnixTimestamp64Micro(e.received_at))) AS exposed_at,
    argMinState(toString(e.arm), tuple(least(toUnixTimestamp64Micro(e.occurred_at), toUnixTimestamp64Micro(e.received_at)), e.event_id))
        AS first_arm,
    argMinState(tuple(e.propensity), tuple(least(toUnixTimestamp64Micro(e.occurred_at), toUnixTimestamp64Micro(e.received_at)), e.event_id))
        AS chance,
    groupUniqArrayState(toString(e.arm)) AS arms
FROM {events} AS e {final}
WHERE e.kind = 'exposure' AND e.flags = 0 AND e.unit != '' {where}
GROUP BY e.experiment, e.unit"""

# Per unit and day of the event, rebuilt whole by `analytics.warehouse.rollups`; never written otherwise.
UNIT_DAILY = Table(
    name="unit_daily",
    columns="""
    experiment LowCardinality(String),
    kind LowCardinality(String),
    arm LowCardinality(String),
    day Date,
    unit String CODEC(ZSTD(1)),
    n UInt64 CODEC(ZSTD(1)),
    flagged UInt64 CODEC(ZSTD(1)),
    valued UInt64 CODEC(ZSTD(1)),
    value Float64 CODEC(ZSTD(1)),
    first_at Int64 CODEC(ZSTD(1)),
    last_at Int64 CODEC(ZSTD(1))
""",
    engine="MergeTree",
    keys="PARTITION BY toYYYYMMDD(day)\nORDER BY (experiment, kind, day, unit, arm)",
)

# One row for each reason to rebuild a day. The same reason twice is one row; cleared wins over set.
DIRTY_DAYS = Table(
    name="dirty_days",
    columns="day Date, reason String, at DateTime64(6, 'UTC'), cleared UInt8",
    engine="ReplacingMergeTree",
    arguments="cleared",
    keys="ORDER BY (day, reason)\nTTL toDateTime(at) + toIntervalDay(7) DELETE WHERE cleared = 1",
)
ERASURES = Table(
    name="erasures",
    columns="unit_hash String, at DateTime64(6, 'UTC')",
    engine="ReplacingMergeTree",
    arguments="at",
    keys="ORDER BY unit_hash",
)
SALTS = Table(name="erasure_salts", columns="salt String", engine="ReplacingMergeTree", keys="ORDER BY salt")
NEW_SALT = """INSERT INTO erasure_salts SELECT lower(hex(randomString(32))) AS salt
WHERE (SELECT count() FROM erasure_salts) = 0 SETTINGS async_insert = 0"""

EVERY_DAY = """INSERT INTO dirty_days SELECT DISTINCT day, 'migration {version}' AS reason, now64(6, 'UTC') AS at, 0 AS cleared FROM events
SETTINGS async_insert = 0"""

# What reports need of a unit's day, so that none reads the events again. Parallel arrays: `times` in microseconds, `values` (NaN: none
# was sent), `extras` (of an exposure its propensity, of a generation that did not fail its latency in ms; NaN: none; else empty).
# The same of flagged events, whose flags are in `flag_sets`. `context` is that of the first exposure.
UNIT_DAILY_STATES = (
    "times Array(Int64) CODEC(Delta, ZSTD(1))",
    "values Array(Float64) CODEC(ZSTD(1))",
    "extras Array(Float64) CODEC(ZSTD(1))",
    "failed UInt64 CODEC(ZSTD(1))",
    "flagged_times Array(Int64) CODEC(ZSTD(1))",
    "flagged_values Array(Float64) CODEC(ZSTD(1))",
    "flagged_extras Array(Float64) CODEC(ZSTD(1))",
    "flagged_failed UInt64 CODEC(ZSTD(1))",
    "flag_sets Array(UInt32) CODEC(ZSTD(1))",
    "late UInt64 CODEC(ZSTD(1))",
    "last_received Int64 CODEC(ZSTD(1))",
    "digest LowCardinality(String)",
    "digest_at Int64 CODEC(ZSTD(1))",
    "context Map(String, String) CODEC(ZSTD(1))",
)

# A random number for each insert, erasure and exchange of tables, after it: facts computed at one sum are right while it stands.
# Numbers of no experiment (of 1970-01-01) count for every one.
EXPERIMENT_MARKS = Table(
    name="experiment_marks",
    columns="experiment String, day Date, mark UInt64",
    engine="SummingMergeTree",
    arguments="mark",
    keys="ORDER BY (experiment, day)",
)

# The facts of a report as JSON, with the mark that they were computed at; `until`: whose days before also count, of any experiment.
STORED_FACTS = Table(
    name="stored_facts",
    columns="""experiment String, definition String, mark UInt64, until Date, at DateTime64(6, 'UTC'), facts String CODEC(ZSTD(3))""",
    engine="ReplacingMergeTree",
    arguments="at",
    keys="ORDER BY (experiment, definition)\nTTL toDateTime(at) + toIntervalDay(30)",
)


def migrations(layout: Layout) -> tuple[Migration, ...]:
    """All of them, oldest first."""
    first = (*layout.create(EVENTS), *layout.create(LOG_POSITIONS))
    events, exposures = layout.local("events"), layout.local("exposures")
    second = (
        *layout.add_columns("events", ORIGINS),
        *(statement for table in (EXPOSURES, UNIT_DAILY, DIRTY_DAYS, ERASURES, SALTS) for statement in layout.create(table)),
        layout.view("exposures_view", "exposures", EXPOSURE_STATES.format(events=events, final="", where="")),
        # What was there before the view; a row that the view has seen too changes nothing.
        f"INSERT INTO {'exposures' if layout.cluster else exposures} {EXPOSURE_STATES.format(events='events', final='', where='')}",
        EVERY_DAY.format(version=2),
        NEW_SALT,
    )
    third = (
        *layout.add_columns("unit_daily", UNIT_DAILY_STATES),
        *(statement for table in (EXPERIMENT_MARKS, STORED_FACTS) for statement in layout.create(table)),
        EVERY_DAY.format(version=3),
    )
    return (
        Migration(1, "events and log positions", first),
        Migration(2, "origins, exposures, daily rollups, erasures", second),
        Migration(3, "events in daily rollups, stored facts", third),
    )


def quoted(name: str) -> str:
    """A name as ClickHouse reads it whatever it holds."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
