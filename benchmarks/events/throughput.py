"""How fast events pass each station, in one run: HTTP to disk, spool to Kafka, Kafka to the warehouse; and what a million of them cost.

python benchmarks/events/throughput.py [--events 300000] [--seconds 4]

One Apache Kafka broker, one process per station, everything on this machine. Producing is compared with the bare clients kafka-python and
confluent-kafka (librdkafka) on the same messages; the sink runs in this process on chDB, the same code as `salon sink`. CPU-seconds
are those of the station's own process (the broker's are given beside them).
"""

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCAL = HERE.parents[1] / "deploy/local"
sys.path[:0] = [str(HERE.parent), str(HERE), str(LOCAL / "kafka"), str(LOCAL / "clickhouse")]

from confluent_kafka import Producer  # noqa: E402
from gateway_process import GatewayProcess  # noqa: E402
from kafka import KafkaProducer  # noqa: E402
from load import drive, request  # noqa: E402
from local_clickhouse import LocalClickHouse  # noqa: E402
from local_kafka import LocalKafka  # noqa: E402
from machine import machine  # noqa: E402
from topology import Service  # noqa: E402

from analytics.events import Event, encode, new_id, utc_now  # noqa: E402
from analytics.kafka.address import KafkaAddress, parse_kafka  # noqa: E402
from analytics.kafka.messages import message_key  # noqa: E402
from analytics.kafka.reconcile import Reconciliation, reconcile  # noqa: E402
from analytics.kafka.sink import KafkaSink  # noqa: E402
from analytics.kafka.topics import ensure_topics  # noqa: E402
from analytics.local_log import LocalLog  # noqa: E402
from analytics.warehouse.client import Warehouse  # noqa: E402
from analytics.warehouse.rows import to_arrow  # noqa: E402
from gateway.forwarder import Forwarder  # noqa: E402
from salon.client import Client  # noqa: E402

BLOCK_ROWS = 100_000
UNITS, PARTITIONS = 20_000, 4
DAY = 1_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    print(machine("salon", "kafka-python", "confluent-kafka", "clickhouse-connect", "chdb", "pyarrow", "uvicorn"))
    with tempfile.TemporaryDirectory(prefix="salon-throughput-") as name:
        folder = Path(name)
        broker = LocalKafka(folder / "kafka")
        broker.start()
        try:
            events = made(arguments.events)
            http(folder, broker, arguments.seconds)
            spool_cpu, message_bytes = producing(folder, broker, events)
            sink_cpu, row_bytes = sinking(folder, broker, events)
            cost(spool_cpu, message_bytes, sink_cpu, row_bytes)
        finally:
            broker.stop()


def made(count: int) -> list[Event]:
    """Feedback as the gateway writes it: `count` events of UNITS people within one day."""
    chance, now = random.Random(0), utc_now()
    generations = [new_id() for _ in range(UNITS)]
    return [
        Event(
            event_id=new_id(), kind=chance.choice(("view", "like", "score")), occurred_at=now, received_at=now, route="hero",
            experiment="contest", arm=("base", "vivid")[unit % 2], variant_digest="sha256:" + "0" * 64, unit=f"unit-{unit}",
            propensity=0.5, generation_id=generations[unit], value=chance.random(), position=0, grid=1,
        )
        for unit in (chance.randrange(UNITS) for _ in range(count))
    ]  # fmt: skip


def address_of(broker: LocalKafka, topic: str) -> KafkaAddress:
    """A topic of its own, made."""
    address = parse_kafka(
        f"kafka://{broker.bootstrap}/{topic}?partitions={PARTITIONS}&replication_factor=1&control_topic={topic}.control", {}
    )
    ensure_topics(address)
    return address


def cpu_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU-seconds of `work`."""
    began, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - began, cpu_seconds() - cpu


def http(folder: Path, broker: LocalKafka, seconds: float) -> None:
    """Feedback over HTTP, acknowledged after the fsync, while the forwarder drains the spool into Kafka; then with a sink behind it."""
    address_of(broker, "http.events")
    warehouse = LocalClickHouse(folder / "clickhouse").start()
    server = GatewayProcess(folder / "gateway")
    log = f'[events]\nlog = "kafka://{broker.bootstrap}/http.events?partitions={PARTITIONS}&control_topic=http.events.control"\n'
    settings = server.folder / "salon.toml"
    sections = f'{log}[warehouse]\nurl = "{warehouse.url}"\n[variants.base]'
    settings.write_text(settings.read_text().replace("[variants.base]", sections, 1))
    salon = [sys.executable, "-m", "salon.cli"]
    subprocess.run([*salon, "migrate", "--config", str(settings)], check=True, stdout=subprocess.DEVNULL)
    server.start()
    sink = Service("sink", [*salon, "sink", "--config", str(settings)], folder / "sink")
    try:
        server.ready()
        client, chance = Client(server.url, server.key), random.Random(0)
        tokens = [client.generate("a red heart", route="hero", user=f"unit-{i}").token for i in range(16)]
        for size, clients in ((1, 16), (50, 4)):
            before = server.cpu_seconds()
            load = asyncio.run(drive(server.port, clients, seconds, partial(feedback, chance, tokens, size), b'"accepted"'))
            speed = rate(load.matched, load.seconds, server.cpu_seconds() - before)
            print(f"HTTP, durable, {size:>2} a request, {clients:>2} clients: {speed} (forwarder included), median {load.median_ms:.1f} ms")
        sink.start()
        report_while_ingesting(server, partial(feedback, chance, tokens, 50), seconds)
    finally:
        server.stop()
        sink.end()
        warehouse.stop()


def feedback(chance: random.Random, tokens: Sequence[str], size: int) -> bytes:
    """A request with `size` new events."""
    events = [{"event_id": str(new_id()), "feedback_token": chance.choice(tokens), "kind": "view"} for _ in range(size)]
    return request("/v1/feedback", json.dumps({"events": events}).encode())


def report_while_ingesting(server: GatewayProcess, make: Callable[[], bytes], seconds: float) -> None:
    """How long the report takes over HTTP while batches come in, and a sink moves them."""
    client, waits, stop = Client(server.url, server.key, timeout_seconds=60), [], threading.Event()
    client.report("contest")

    def ask() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            client.report("contest")
            waits.append(time.perf_counter() - began)

    asking = threading.Thread(target=ask)
    asking.start()
    load = asyncio.run(drive(server.port, 4, seconds, make, b'"accepted"'))
    stop.set()
    asking.join()
    print(
        f"report over HTTP while {load.matched / load.seconds:,.0f} events/s come in and a sink moves them, all on this machine: "
        f"median {statistics.median(waits) * 1000:.0f} ms, longest {max(waits) * 1000:.0f} ms, {len(waits)} times"
    )


def producing(folder: Path, broker: LocalKafka, events: Sequence[Event]) -> tuple[float, float]:
    """Spool to Kafka by the forwarder, beside bare clients on the same messages: CPU-seconds and bytes on the broker's disk, an event."""
    rows = [(message_key(event.unit), encode(event)) for event in events]
    size = sum(len(value) for _, value in rows) / len(rows)
    print(f"{len(rows):,} events of {size:.0f} bytes JSON, zstd, acks=all, {PARTITIONS} partitions, one broker")
    spool = LocalLog(folder / "spool")
    wall, cpu = timed(lambda: [spool.submit(events[i : i + 1000]).result() for i in range(0, len(events), 1000)])
    print(f"{'spool, 1,000 events a commit':>30}: {rate(len(events), wall, cpu)}")
    forwarder = Forwarder(spool, address_of(broker, "forwarded"))

    def drain() -> None:
        forwarder.start()
        while forwarder.sent < len(events):
            time.sleep(0.01)

    ours, forward_cpu = timed(drain)
    print(f"{'forwarder, spool to Kafka':>30}: {rate(len(events), ours, forward_cpu)}")
    forwarder.stop()
    spool.close()
    for name, work in (("kafka-python", by_kafka_python), ("confluent-kafka", by_librdkafka)):
        topic = address_of(broker, name).topic
        wall, cpu = timed(partial(work, broker.bootstrap, topic, rows))
        print(f"{f'bare {name}':>30}: {rate(len(rows), wall, cpu)}; the forwarder is {wall / ours:.2f} × as fast")
    stored = sum(file.stat().st_size for file in (folder / "kafka").rglob("forwarded-*/*.log"))
    return forward_cpu / len(rows), stored / len(events)


def rate(count: int, wall: float, cpu: float) -> str:
    """Events per second, and what each costs."""
    return f"{count / wall:9,.0f} events/s, {cpu / count * 1e6:5.1f} CPU-µs an event"


def by_kafka_python(bootstrap: str, topic: str, rows: Sequence[tuple[bytes | None, bytes]]) -> None:
    """All rows by kafka-python alone, acknowledged."""
    options = {"acks": "all", "enable_idempotence": True, "compression_type": "zstd", "linger_ms": 20, "batch_size": 256 << 10}
    producer = KafkaProducer(bootstrap_servers=bootstrap, **options)
    for key, value in rows:
        producer.send(topic, value, key)
    producer.flush(120)
    producer.close()


def by_librdkafka(bootstrap: str, topic: str, rows: Sequence[tuple[bytes | None, bytes]]) -> None:
    """All rows by confluent-kafka alone, acknowledged."""
    options = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": "zstd", "linger.ms": 20}
    producer = Producer({**options, "queue.buffering.max.messages": len(rows) + 1})
    for key, value in rows:
        producer.produce(topic, value, key)
    producer.flush(120)


def sinking(folder: Path, broker: LocalKafka, events: Sequence[Event]) -> tuple[float, float]:
    """Arrow blocks alone, then Kafka to chDB end to end: CPU-seconds a row, bytes a row on disk."""
    warehouse = Warehouse.open(f"chdb://{folder / 'warehouse'}")
    try:
        warehouse.migrate()
        blocks = [events[i : i + BLOCK_ROWS] for i in range(0, len(events), BLOCK_ROWS)]
        made_wall, _ = timed(lambda: [to_arrow(block) for block in blocks])
        tables = [to_arrow(block) for block in blocks]
        wall, cpu = timed(lambda: [warehouse.insert_exact(f"block-{i}", table) for i, table in enumerate(tables)])
        print(
            f"Arrow blocks of {BLOCK_ROWS:,}: {len(events) / wall:9,.0f} rows/s inserted ({cpu / len(events) * 1e6:.1f} CPU-µs); "
            f"events to Arrow {len(events) / made_wall:,.0f} rows/s"
        )
        sink = KafkaSink(address_of(broker, "forwarded"), warehouse)
        moved = 0

        def drain() -> None:
            nonlocal moved
            while moved < len(events):
                moved += sink.drain()

        wall, cpu = timed(drain)
        print(f"sink, Kafka to chDB end to end: {moved / wall:9,.0f} rows/s, {cpu / moved * 1e6:.1f} CPU-µs a row")
        sink.close()
        found: list[Reconciliation] = []
        since = events[0].received_at - timedelta(hours=1)
        wall, spent = timed(lambda: found.append(reconcile(sink.address, warehouse, since=since)))
        if not found[0].ok or found[0].events != len(events):
            raise RuntimeError(f"reconciliation compared {found[0].events} events of {len(events)}, {found[0].missing} missing")
        print(f"reconciliation of all of it: {wall:.1f} s, {spent / len(events) * 1e6:.1f} CPU-µs an event")
        ((size, rows),) = warehouse.query("SELECT sum(bytes_on_disk), sum(rows) FROM system.parts WHERE active AND table = 'events'")
        return cpu / moved, size / rows
    finally:
        warehouse.close()


def cost(forward_cpu: float, message_bytes: float, sink_cpu: float, row_bytes: float) -> None:
    """What a million events need, and by multiplication what 10⁹ a day would: arithmetic, not a measurement."""
    print(f"a million events: {forward_cpu * 1e6:.0f} CPU-s forwarding, {sink_cpu * 1e6:.0f} CPU-s sink and chDB, ", end="")
    print(f"{message_bytes:.0f} MB in Kafka (one copy), {row_bytes:.0f} MB in the warehouse")
    mean = DAY / 86_400
    cores = f"{mean * forward_cpu:.2f} cores forwarding, {mean * sink_cpu:.2f} cores sink and chDB"
    print(
        f"by multiplication, 10⁹ a day is {mean:,.0f}/s on average: {cores}, "
        f"{message_bytes * DAY / 1e9:.0f} GB/day in Kafka a copy, {row_bytes * DAY / 1e9:.0f} GB/day in the warehouse a replica"
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
