"""Sends feedback until it is acknowledged, and keeps a ledger of what was: a process of its own.

python benchmarks/events/client.py --urls URL[,URL] --tokens FILE --events N --ledger FILE [--rate R] [--seed N]

Events have ids of their own (UUIDv7) and are sent again, unchanged, until a 202 says accepted or duplicate. Some that were
acknowledged are sent once more; some come out of order, some days late; some as a browser's text/plain. One line of progress a second
on standard output; at the end the ledger: JSON lines of event_id, unit, kind, value, in the order of their acknowledgements.
"""

import argparse
import http.client
import json
import os
import random
import sys
import threading
import time
import urllib.parse
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

KINDS = ("view", "view", "like", "score")
SIZES = (1, 50, 50, 50, 200)
AGAIN, LATE, BEACON = 0.03, 0.02, 0.2
TIMEOUT_SECONDS = 15


class Ledger:
    """What was acknowledged, by several threads."""

    def __init__(self, file: Path) -> None:
        self._file, self._guard = file.open("w"), threading.Lock()
        self.acknowledged = self.requests = self.failures = self.refused = self.duplicates = 0
        self.rejected: list[str] = []

    def answered(self, batch: list[dict[str, Any]], units: list[str], results: list[dict[str, Any]], repeated: bool) -> None:
        """Note one 202."""
        lines = []
        with self._guard:
            self.requests += 1
            for event, unit, result in zip(batch, units, results, strict=True):
                if result["status"] == "rejected":
                    self.rejected.append(json.dumps(result["error"]))
                    continue
                self.duplicates += result["status"] == "duplicate"
                if not repeated:
                    self.acknowledged += 1
                    lines.append(json.dumps([event["event_id"], unit, event["kind"], event.get("value")]))
            if lines:
                self._file.write("\n".join(lines) + "\n")

    def failed(self, status: int | None) -> None:
        """Note a request without a usable answer."""
        with self._guard:
            self.requests += 1
            self.refused += status is not None
            self.failures += status is None

    def close(self) -> None:
        """Write it out."""
        self._file.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--urls", required=True)
    parser.add_argument("--tokens", type=Path, required=True, help="JSON lines of unit and feedback_token")
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.0, help="events per second at most; 0: as fast as it goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600)
    arguments = parser.parse_args()
    tokens = [tuple(json.loads(line)) for line in arguments.tokens.read_text().splitlines()]
    ledger, deadline = Ledger(arguments.ledger), time.monotonic() + arguments.seconds
    shares = [arguments.events // arguments.threads] * arguments.threads
    shares[0] += arguments.events - sum(shares)
    rate = arguments.rate / arguments.threads
    threads = [
        threading.Thread(
            target=send,
            args=(arguments.urls.split(","), tokens, share, ledger, random.Random(f"{arguments.seed}-{i}"), deadline, rate),
            daemon=True,
        )
        for i, share in enumerate(shares)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        print(json.dumps(tally(ledger)), flush=True)
    ledger.close()
    print(json.dumps(tally(ledger) | {"rejected": ledger.rejected[:5], "done": True}), flush=True)
    return 0 if ledger.acknowledged == arguments.events and not ledger.rejected else 1


def tally(ledger: Ledger) -> dict[str, int]:
    """The counts so far."""
    names = ("acknowledged", "requests", "failures", "refused", "duplicates")
    return {name: getattr(ledger, name) for name in names}


def send(urls: list[str], tokens: list[Any], share: int, ledger: Ledger, chance: random.Random, deadline: float, rate: float) -> None:
    """One client: `share` events, each sent until acknowledged."""
    line, left, began = Line(urls, chance), share, time.monotonic()
    while left and time.monotonic() < deadline:
        size = min(left, chance.choice(SIZES))
        beacon = chance.random() < BEACON
        # A browser sends what one person did; a product's server mixes people.
        chosen = [chance.choice(tokens)] * size if beacon else [chance.choice(tokens) for _ in range(size)]
        batch = [event(chance, token) for _, token in chosen]
        units = [unit for unit, _ in chosen]
        again = 1 + (chance.random() < AGAIN)
        for repeated in range(again):
            until_acknowledged(line, batch, units, ledger, chance, deadline, beacon, bool(repeated))
        left -= size
        if rate:
            time.sleep(max(0.0, began + (share - left) / rate - time.monotonic()))


def event(chance: random.Random, token: str) -> dict[str, Any]:
    """A view, a like, or a score of some points."""
    kind = chance.choice(KINDS)
    made: dict[str, Any] = {"event_id": uuid7(chance), "feedback_token": token, "kind": kind}
    if kind == "score":
        made["value"] = chance.randrange(1, 1000)
    if chance.random() < LATE:
        made["occurred_at"] = (datetime.now(UTC) - timedelta(seconds=chance.uniform(0, 5))).isoformat()
    return made


def uuid7(chance: random.Random) -> str:
    """RFC 9562 §5.7, from this script's own random numbers."""
    value = (time.time_ns() // 1_000_000) << 80 | 7 << 76 | chance.getrandbits(12) << 64 | 2 << 62 | chance.getrandbits(62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Line:
    """A keep-alive connection to one of several gateways; after a failure to the next."""

    def __init__(self, urls: list[str], chance: random.Random) -> None:
        self._hosts = [urllib.parse.urlsplit(url).netloc for url in urls]
        self._at = chance.randrange(len(urls))
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, media_type: str) -> tuple[int, float, bytes]:
        """Status, the seconds of Retry-After, body. Raises OSError, HTTPException."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._hosts[self._at], timeout=TIMEOUT_SECONDS)
        self._connection.request("POST", "/v1/feedback", body, {"Content-Type": media_type})
        answer = self._connection.getresponse()
        return answer.status, float(answer.headers.get("Retry-After", 0)), answer.read()

    def close(self) -> None:
        """Drop the connection and go to the next gateway."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._at = None, (self._at + 1) % len(self._hosts)


def until_acknowledged(
    line: Line, batch: list[Any], units: list[str], ledger: Ledger, chance: random.Random, deadline: float, beacon: bool, repeated: bool
) -> None:
    """The same ids until the answer is a 202 for all of them."""
    body = json.dumps({"events": batch}).encode() if len(batch) > 1 or beacon else json.dumps(batch[0]).encode()
    media_type = "text/plain;charset=UTF-8" if beacon else "application/json"
    while time.monotonic() < deadline:
        try:
            status, retry_seconds, answer = line.post(body, media_type)
        except (OSError, http.client.HTTPException):
            ledger.failed(None)
            line.close()
            time.sleep(chance.uniform(0.05, 0.3))
            continue
        if status == 202:
            ledger.answered(batch, units, json.loads(answer)["results"], repeated)
            return
        ledger.failed(status)
        if status not in (429, 500, 502, 503, 504):
            ledger.rejected.append(f"{status}: {answer[:300].decode('utf-8', 'replace')}")
            return
        line.close()
        time.sleep(min(2.0, retry_seconds) if retry_seconds else chance.uniform(0.05, 0.5))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
