CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, name String, applied_at DateTime64(6, 'UTC'))
ENGINE = ReplacingMergeTree(applied_at) ORDER BY version;
CREATE TABLE IF NOT EXISTS events
(
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
)
ENGINE = ReplacingMergeTree(earliest)
PARTITION BY toYYYYMMDD(day)
ORDER BY (experiment, kind, day, unit, event_id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;
CREATE TABLE IF NOT EXISTS log_positions (log_name String, position UInt64, pending UInt64, version UInt64)
ENGINE = ReplacingMergeTree(version) ORDER BY log_name
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
