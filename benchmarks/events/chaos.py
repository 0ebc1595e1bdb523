"""Events under fire: gateways, brokers, sinks and warehouse killed and stopped, connections cut, disks filled; is anything lost or doubled?

python benchmarks/events/chaos.py [--events 500000] [--faults 60] [--brokers 1] [--gateways 2] [--sinks 2] [--seed N] [--sabotage NAME]

A client sends feedback until it is acknowledged. Meanwhile faults are drawn at random, sometimes two at once. When all is sent and every
fault has ended, the acknowledged events are counted against Kafka (read by librdkafka), against the warehouse's raw rows and
against the report (recounted by recount.py from Kafka's JSON). Exits with 1 on any difference. Merges of the warehouse are held
back, so that a record that was put in twice stays visible as two rows.

With --sabotage a protection is switched off (see saboteur.py), and the exit code is 0 only when the counts have seen it.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import count  # noqa: E402
from faults import FAULTS, disk_filled  # noqa: E402
from machine import machine  # noqa: E402
from recount import differences, recount  # noqa: E402
from saboteur import SABOTAGES  # noqa: E402
from topology import Topology  # noqa: E402

from salon.client import Client  # noqa: E402

UNITS, TOGETHER = 400, 0.25
SPOOL_MEGABYTES = 1500
SETTLE_SECONDS = 240
# The settings outlive a kill of the warehouse, the command does not; many small parts are then no reason to refuse an insert.
NO_MERGES = (
    "max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1, "
    "parts_to_delay_insert = 1000000, parts_to_throw_insert = 1000000"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--brokers", type=int, default=1, choices=(1, 3))
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--sinks", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0, help="events per second at most; 0: what takes as long as the faults")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--sabotage", default="", choices=("", *SABOTAGES))
    parser.add_argument("--only", default="", help="faults to draw from, separated by commas")
    parser.add_argument("--keep", type=Path, help="a folder to leave everything in")
    arguments = parser.parse_args()
    print(machine("salon", "kafka-python", "confluent-kafka", "clickhouse-connect", "chdb"))
    print(
        f"seed {arguments.seed}: {arguments.events:,} events, {arguments.faults} faults, {arguments.brokers} brokers (Apache Kafka), "
        f"{arguments.gateways} gateways, {arguments.sinks} sinks, one chDB behind ClickHouse's HTTP protocol"
        + (f"; WITHOUT {arguments.sabotage}: {SABOTAGES[arguments.sabotage].said}" if arguments.sabotage else "")
    )
    with ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="salon-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        spool = small_disk(folder, stack)
        it = Topology(
            folder, brokers=arguments.brokers, gateways=arguments.gateways, sinks=arguments.sinks, spool=spool, sabotage=arguments.sabotage
        )
        stack.callback(it.end)
        it.start()
        return run(it, arguments, spool, folder)


def small_disk(folder: Path, stack: ExitStack) -> Path | None:
    """A file system in memory for the first gateway's spool; None where we may not mount one, and that is said."""
    disk = folder / "spool-disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SPOOL_MEGABYTES}m", "salon-chaos", str(disk)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        print(f"no disk is filled in this run: {mounted.stderr.strip()}")
        return None
    stack.callback(lambda: subprocess.run(["umount", "-l", str(disk)], check=False))
    return disk


def run(it: Topology, arguments: argparse.Namespace, spool: Path | None, folder: Path) -> int:
    """Faults while the client sends, then the counts; the exit code."""
    began = time.monotonic()
    warehouse = count.Warehouse(it.warehouse.port, "salon")
    tokens, first_units = folder / "tokens.jsonl", exposures(it, folder)
    hold_merges(it, warehouse)
    ledger = folder / "ledger.jsonl"
    client = subprocess.Popen(
        [
            *(
                sys.executable,
                str(HERE / "client.py"),
                "--urls",
                ",".join(it.urls),
                "--tokens",
                str(tokens),
                "--events",
                str(arguments.events),
            ),
            *(
                "--ledger",
                str(ledger),
                "--seed",
                str(arguments.seed),
                "--rate",
                str(arguments.rate or arguments.events / (arguments.faults * 5)),
            ),
        ],
        stdout=(folder / "client.log").open("w"),
    )
    done = break_things(it, arguments, spool, client, warehouse)
    code = client.wait()
    told = json.loads((folder / "client.log").read_text().splitlines()[-1])
    took = time.monotonic() - began
    print(f"{sum(done.values())} faults in {took:.0f} s: {', '.join(f'{n} × {name}' for name, n in sorted(done.items()))}")
    print(
        f"client: {told['acknowledged']:,} events acknowledged in {told['requests']:,} requests; {told['failures']:,} cut off, "
        f"{told['refused']:,} refused, {told['duplicates']:,} answers 'duplicate'"
    )
    settled = settle(it, warehouse)
    kafka = count.in_kafka(it.kafka.bootstrap, "salon.events")
    verdict = count.compare(count.acknowledged([ledger]), kafka, warehouse)
    verdict.wrong += [f"rejected: {text}" for text in told.get("rejected", [])]
    if code or told["acknowledged"] < arguments.events:
        verdict.wrong.append(f"the client ended with {code} and {told['acknowledged']} of {arguments.events} events")
    if settled is None:
        verdict.wrong.append(f"the sinks did not take all in {SETTLE_SECONDS} s: {it.sinks[0].tail(3)}")
    report = it.report()
    events, figures = recount(kafka, "contest")
    wrong = differences(report, events, figures)
    units = sum(arm["units"] for arm in report["arms"])
    verdict.figures["figures of the report compared with a recount"] = len(figures)
    verdict.expect("figures of the report that differ", len(wrong))
    verdict.expect("units in the report", units, first_units)
    verdict.expect(
        "units in the table of first exposures",
        warehouse.number("SELECT count() FROM (SELECT unit FROM exposures WHERE experiment = 'contest' GROUP BY unit)"),
        first_units,
    )
    verdict.wrong += wrong[:5]
    for service in (*it.gateways, *it.sinks):
        if service.deaths:
            print(f"{service.name} ended by itself {service.deaths} times: {service.tail(3)}")
    for name, figure in verdict.figures.items():
        print(f"  {figure:>10,}  {name}")
    for text in verdict.wrong:
        print(f"WRONG  {text}")
    return judged(verdict, arguments.sabotage)


def judged(verdict: count.Verdict, sabotage: str) -> int:
    """The exit code: with a sabotage, the counts must have seen what it does."""
    if not sabotage:
        print("FAILED" if verdict.wrong else "nothing acknowledged was lost, nothing was counted twice")
        return 1 if verdict.wrong else 0
    seen = [name for name in SABOTAGES[sabotage].seen_as if verdict.figures.get(name, 0) > 0]
    print(f"the counts saw it: {', '.join(seen)}" if seen else "FAILED: a protection was off, and the counts saw nothing")
    return 0 if seen else 1


def exposures(it: Topology, folder: Path) -> int:
    """One picture for each unit, so that each has an arm and a token; how many units."""
    client = Client(f"http://127.0.0.1:{it.gateway_ports[0]}", it.key)
    tokens = [client.generate("a red heart", route="hero", user=f"unit-{i}").token for i in range(UNITS)]
    lines = [json.dumps([f"unit-{i}", token]) for i, token in enumerate(tokens)]
    (folder / "tokens.jsonl").write_text("\n".join(lines))
    return UNITS


def hold_merges(it: Topology, warehouse: count.Warehouse) -> None:
    """Wait for the tables, then stop their merges; again after each restart of the warehouse."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            warehouse.rows("SELECT count() FROM events")
            warehouse.command(f"ALTER TABLE events MODIFY SETTING {NO_MERGES}")
            warehouse.command("SYSTEM STOP MERGES events")
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"the tables did not appear: {it.sinks[0].tail()}")


def break_things(
    it: Topology, arguments: argparse.Namespace, spool: Path | None, client: "subprocess.Popen[Any]", warehouse: count.Warehouse
) -> Counter[str]:
    """Faults until the wanted number is reached and the client has ended; how often each."""
    chance, done, deck = random.Random(arguments.seed), Counter[str](), list[str]()
    faults = FAULTS | ({"disk filled": disk_filled(spool)} if spool else {})
    if unknown := set(filter(None, arguments.only.split(","))) - faults.keys():
        raise ValueError(f"--only: {sorted(unknown)} are no faults; there are {sorted(faults)}")
    faults = {name: fault for name, fault in faults.items() if not arguments.only or name in arguments.only.split(",")}
    while sum(done.values()) < arguments.faults:
        time.sleep(chance.uniform(0.3, 2.5))
        picked: list[str] = []
        # Dealt like cards, so that each comes equally often; two at once are two different ones.
        for _ in range(2 if chance.random() < TOGETHER else 1):
            deck = deck or chance.sample(sorted(faults), len(faults))
            picked = [*picked, deck.pop()] if deck[-1] not in picked else picked
        lasting = []
        for name in picked:
            lasting.append((name, *faults[name](it, chance)))
            done[name] += 1
        began = time.monotonic()
        for name, seconds, undo in sorted(lasting, key=lambda fault: fault[1]):
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            undo()
            if name == "warehouse killed":
                hold_merges(it, warehouse)
        for service in (*it.gateways, *it.sinks):
            service.revive()
        print(f"{time.strftime('%H:%M:%S')} {sum(done.values()):>4} {' + '.join(picked)}", file=sys.stderr, flush=True)
        if client.poll() is not None and sum(done.values()) >= arguments.faults:
            break
    return done


def settle(it: Topology, warehouse: count.Warehouse) -> float | None:
    """Wait until the spools are empty and the warehouse's rows no longer grow; the seconds, or None when they do not come to rest."""
    began, last, quiet = time.monotonic(), -1, 0
    while time.monotonic() - began < SETTLE_SECONDS:
        for service in (*it.gateways, *it.sinks):
            service.revive()
        time.sleep(2)
        waiting = [it.metrics(i).get("salon_spool_events", -1.0) for i in range(len(it.gateways))]
        try:
            rows = warehouse.number("SELECT count() FROM events")
        except OSError:
            continue
        quiet = quiet + 1 if rows == last and not any(waiting) else 0
        last = rows
        if quiet >= 8:
            return time.monotonic() - began
    return None


if __name__ == "__main__":
    sys.exit(main())
