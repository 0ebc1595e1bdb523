"""Feedback through `kill -9`: is every acknowledged event in the report, and in it once?

python benchmarks/crash.py [--events 5000] [--kills 10] [--clients 8] [--seconds 220] [--seed N]

Clients send events with ids of their own, and send them again until they are acknowledged; now and then they send an
acknowledged one once more. Meanwhile the server is killed at random instants, in some lives before it is even ready,
and started again. Afterwards the raw rows of the log are counted against what the clients were told, and the report
against a recount of those rows by other code (recount.py), before and after one more restart. Exits with 1 on any difference.
"""

import argparse
import http.client
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway_process import GatewayProcess
from machine import machine
from recount import differences, raw_rows, recount, times_stored

from analytics.events import new_id
from salon.client import Client, GatewayError

EXPERIMENT, KINDS = "contest", ("view", "like", "score")
UNITS, AGAIN, EARLY, PACE_SECONDS = 24, 0.05, 0.25, 0.04


@dataclass
class Tally:
    """What the clients were told. `acknowledged` maps event_id to the event that was sent."""

    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)
    attempts: int = 0
    refused: int = 0
    cut_off: int = 0
    duplicates: int = 0
    rejected: list[str] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=220, help="give up after so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--model", default="salon/emoji-64")
    arguments = parser.parse_args()
    print(machine("salon", "chdb", "uvicorn", "litestar"))
    print(f"seed {arguments.seed}: {arguments.events} events by {arguments.clients} clients, {arguments.kills} kills")
    with tempfile.TemporaryDirectory(prefix="salon-crash-") as folder:
        server = GatewayProcess(Path(folder), arguments.model)
        server.start()
        try:
            server.ready()
            return run(server, arguments)
        finally:
            server.kill()


def run(server: GatewayProcess, arguments: argparse.Namespace) -> int:
    """The whole experiment on a server that is ready; the exit code."""
    began, chance = time.monotonic(), random.Random(arguments.seed)
    deadline = began + arguments.seconds
    tokens = [Client(server.url, server.key).generate("a red heart", route="hero", user=f"unit-{i}").token for i in range(UNITS)]
    tally, shares = Tally(), [arguments.events // arguments.clients] * arguments.clients
    shares[0] += arguments.events - sum(shares)
    clients = [
        threading.Thread(target=send, args=(server, tokens, share, tally, random.Random(chance.random()), deadline), daemon=True)
        for share in shares
    ]
    for client in clients:
        client.start()
    kills, early = kill_at_random(server, arguments, tally, chance, deadline)
    for client in clients:
        client.join(max(0.0, deadline - time.monotonic()))
    server.ready()
    print(f"{kills} kills -9, {early} of them before the server was ready; {time.monotonic() - began:.0f} s")
    print(
        f"{len(tally.acknowledged)} events acknowledged, {tally.duplicates} times as a duplicate; {len(tally.rejected)} rejected; ", end=""
    )
    print(f"{tally.attempts} requests, {tally.cut_off} cut off by a kill, {tally.refused} refused while the server was away")
    wrong = [f"rejected: {text}" for text in tally.rejected[:3]]
    if len(tally.acknowledged) < arguments.events or kills < arguments.kills:
        wrong.append(f"{arguments.seconds:.0f} s were too short for {arguments.events} events and {arguments.kills} kills")
    wrong += judge(server, tally, "report")
    server.kill()
    server.start()
    server.ready()
    wrong += judge(server, tally, "report after one more kill and restart")
    for text in wrong:
        print(f"WRONG  {text}")
    print("FAILED" if wrong else "every acknowledged event is in the report exactly once")
    return 1 if wrong else 0


def kill_at_random(
    server: GatewayProcess, arguments: argparse.Namespace, tally: Tally, chance: random.Random, deadline: float
) -> tuple[int, int]:
    """Kill and restart while the clients send. The instants are spread over the events, then jittered; some fall into the start-up."""
    marks = sorted(chance.uniform(0.02, 0.95) * arguments.events for _ in range(arguments.kills))
    kills = early = 0
    for mark in marks:
        while len(tally.acknowledged) < mark and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        if time.monotonic() >= deadline:
            break
        server.kill()
        kills += 1
        server.start()
        if chance.random() < EARLY:
            time.sleep(chance.uniform(0, 2.5))
            server.kill()
            kills, early = kills + 1, early + 1
            server.start()
    return kills, early


def send(server: GatewayProcess, tokens: list[str], share: int, tally: Tally, chance: random.Random, deadline: float) -> None:
    """One client: `share` events, alone or a few together, each sent until acknowledged."""
    client = Client(server.url, timeout_seconds=10)
    left = share
    while left and time.monotonic() < deadline:
        size = min(left, chance.choice((1, 1, 1, 4, 12)))
        batch = [event(chance, tokens) for _ in range(size)]
        until_acknowledged(client, batch, tally, chance, deadline)
        left -= size
        if chance.random() < AGAIN:
            until_acknowledged(client, batch, tally, chance, deadline)
        time.sleep(chance.uniform(0, PACE_SECONDS) * size)


def event(chance: random.Random, tokens: list[str]) -> dict[str, Any]:
    """A view, a like, or a score of some points, for one of the generations."""
    made = {"event_id": str(new_id()), "feedback_token": chance.choice(tokens), "kind": chance.choice(KINDS)}
    return made | ({"value": chance.randrange(1, 1_000_000)} if made["kind"] == "score" else {})


def until_acknowledged(client: Client, batch: list[dict[str, Any]], tally: Tally, chance: random.Random, deadline: float) -> None:
    """Send `batch` with the same ids until the server has answered for all of it."""
    while time.monotonic() < deadline:
        try:
            results = client.send(batch, single=len(batch) == 1)
        except (OSError, http.client.HTTPException, GatewayError, ValueError) as error:
            with tally.guard:
                tally.attempts += 1
                answered_or_refused = isinstance(error, (GatewayError, ConnectionRefusedError))
                tally.refused += answered_or_refused
                tally.cut_off += not answered_or_refused
                if isinstance(error, GatewayError) and error.status not in (429, 503):
                    tally.rejected.append(str(error))
                    return
            client.close()
            time.sleep(chance.uniform(0.02, 0.2))
            continue
        with tally.guard:
            tally.attempts += 1
            for event, result in zip(batch, results, strict=True):
                if result["status"] == "rejected":
                    tally.rejected.append(str(result["error"]))
                else:
                    tally.acknowledged[event["event_id"]] = event
                    tally.duplicates += result["status"] == "duplicate"
        return


def judge(server: GatewayProcess, tally: Tally, name: str) -> list[str]:
    """Count the raw rows against what was acknowledged, and the report against the rows; what is wrong, in words."""
    report = Client(server.url, server.key).report(EXPERIMENT)
    rows = raw_rows(server.folder / "var/events/events.sqlite")
    lost, doubled, altered = compare(rows, tally.acknowledged)
    events, figures = recount(rows, EXPERIMENT)
    wrong = differences(report, events, figures)
    print(f"{name}: lost {lost}, doubled {doubled}, altered {altered}; events_read {report['events_read']}, recounted {events}; ", end="")
    print(f"{len(figures)} figures compared, {len(wrong)} differ")
    if lost or doubled or altered:
        wrong.append(f"lost {lost}, doubled {doubled}, altered {altered}")
    return [f"{name}: {text}" for text in wrong]


def compare(rows: list[dict[str, Any]], acknowledged: dict[str, dict[str, Any]]) -> tuple[int, int, int]:
    """How many acknowledged events are not in the log, are there twice, or say something else."""
    stored, by_id = times_stored(rows), {row["event_id"]: row for row in rows}
    lost = sum(stored[event_id] == 0 for event_id in acknowledged)
    unknown = sum(row["kind"] in KINDS and row["event_id"] not in acknowledged for row in rows)
    # an event that nobody sent under that id would be a double too
    doubled = sum(count > 1 for count in stored.values()) + unknown
    altered = sum(
        (by_id[event_id]["kind"], by_id[event_id].get("value")) != (event["kind"], event.get("value"))
        for event_id, event in acknowledged.items()
        if event_id in by_id
    )
    return lost, doubled, altered


if __name__ == "__main__":
    sys.exit(main())
