"""The story of the demo: a contest, its verdict, a round of learning, and the candidate's own contest."""

import asyncio
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from salon.demo.audience import Person, Taste
from salon.demo.server import SETTINGS, Server, command, free_port
from salon.demo.traffic import Crowd, Ledger

DECIDED = {"ship", "stop", "rollback", "invalid"}


class Scale(msgspec.Struct, frozen=True):
    """How big a demo is: people between two looks at the report, most looks at each contest, seconds of training."""

    people: int = 100
    first_looks: int = 8
    candidate_looks: int = 10
    training_seconds: float = 110.0


class Story:
    """One run of the demo in `folder`; `say` prints for people (nowhere when `quiet`)."""

    def __init__(self, folder: Path, seed: int, quiet: bool, scale: Scale) -> None:
        self.folder, self.seed, self.quiet, self.scale = folder, seed, quiet, scale
        self.taste = Taste()
        self.seconds: dict[str, float] = {}
        self.experiments: list[dict[str, Any]] = []
        self.truth: dict[str, float] = {}
        self._visitors = 0
        self._key = ""
        self._url = ""

    def say(self, text: str = "") -> None:
        """Print one line for people."""
        if not self.quiet:
            print(text, flush=True)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Time a stage and head its part of the story."""
        self.say(f"\n── {title}")
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)

    def tell(self) -> dict[str, Any]:
        """Run everything. Returns the demo's JSON (design §3.1). Raises RuntimeError when a part of the product fails."""
        port = free_port()
        (self.folder / "salon.toml").write_text(SETTINGS.format(port=port, folder=self.folder))
        config = str(self.folder / "salon.toml")
        with self.stage("start", "The gateway starts as a real server, with engine, event log and warehouse inside"):
            self._key = command("keys", "create", "demo", "--scopes", "generate,feedback,analyst,admin", "--config", config)["key"]
            server = Server(self.folder, port)
            self._url = server.url
        try:
            with self.stage("ready", "Loading the packaged model"):
                self.say(f"ready at {server.url} after {server.wait_ready():.1f} s")
            with self.stage("first_contest", "Contest 1: two variants of one model, a simulated audience of hidden tastes"):
                ledger = self._contest("first-contest", self.scale.first_looks)
            winner = self._conclude("first-contest", ledger)
            with self.stage("round", f"A round of learning: {winner!r} is fine-tuned on what the audience liked"):
                outcome = self._learn(config)
            candidate = None
            for check in outcome["gate"]["checks"]:
                self.say(f"  {'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['explanation']}")
            if outcome["result"] == "announced":
                with self.stage("second_contest", "Contest 2: the candidate meets the champion, at a small weight first"):
                    name, candidate = self._await_experiment(outcome["experiment"])
                    ledger = self._contest(name, self.scale.candidate_looks, ramp=True)
                self._conclude(name, ledger)
            else:
                self.say(f"The gate let no candidate through: {outcome['reason']}")
        finally:
            server.stop()
        truth = {"arms": self.truth, "champion": winner, "candidate": candidate}
        self._compare(truth)
        return {"experiments": self.experiments, "truth": truth, "seconds": self.seconds}

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One call of the gateway's API: JSON, or text where the answer is text. Raises RuntimeError."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read().decode()
                return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path} answered {error.code}: {error.read().decode()[:400]}") from None

    def _contest(self, name: str, looks: int, ramp: bool = False) -> Ledger:
        if not ramp:
            self.call("POST", f"/v1/experiments/{name}/start", {"why": "the demo begins"})
        ledger = Ledger()
        crowd = Crowd(self._url, self._key, self.taste, ledger)
        with tqdm(total=looks * self.scale.people, unit=" people", disable=self.quiet or not sys.stderr.isatty(), leave=False) as bar:
            for look in range(looks):
                people = [Person(f"person-{self.seed}-{self._visitors + i}", self.taste, self.seed) for i in range(self.scale.people)]
                self._visitors += self.scale.people
                asyncio.run(crowd.visit(people, lambda: bar.update() and None))
                report = self.call("GET", f"/v1/experiments/{name}/report")
                decision = report["decision"]
                self.say(f"  look {look + 1}: {_counts(report)}  →  {decision['action'].replace('_', ' ')}")
                if ramp and look == 0 and decision["action"] not in DECIDED:
                    control = next(a["arm"] for a in report["arms"] if a["control"])
                    weights = {a["arm"]: 0.5 for a in report["arms"]}
                    self.call("PATCH", f"/v1/experiments/{name}", {"weights": weights, "why": "guardrails hold at the small weight"})
                    self.say(f"  no alarm at the small weight: ramped to 50 % against {control!r}")
                elif decision["action"] in DECIDED:
                    break
        return ledger

    def _conclude(self, name: str, ledger: Ledger) -> str:
        """Do what the report decides; returns the variant that the route serves now."""
        report = self.call("GET", f"/v1/experiments/{name}/report")
        (self.folder / f"report-{name}.html").write_text(self.call("GET", f"/v1/experiments/{name}/report?format=html"))
        (self.folder / f"report-{name}.json").write_text(json.dumps(report, indent=1))
        self.say()
        self.say(self.call("GET", f"/v1/experiments/{name}/report?format=text"))
        decision, control = report["decision"], next(a["arm"] for a in report["arms"] if a["control"])
        shipped = decision["arm"] if decision["action"] == "ship" else control
        if decision["action"] == "ship":
            self.call("POST", f"/v1/experiments/{name}/ship", {"arm": shipped, "why": decision["reason"]})
        else:
            self.call("POST", f"/v1/experiments/{name}/stop", {"why": decision["reason"]})
        for arm in report["arms"]:
            mean = ledger.mean(arm["arm"])
            if mean is not None:
                self.truth[arm["arm"]] = round(mean, 4)
        self.experiments.append({"name": name, "report": report, "shipped": shipped if decision["action"] == "ship" else None})
        return str(shipped)

    def _learn(self, config: str) -> dict[str, Any]:
        outcome: dict[str, Any] = command(
            "finetune", "hero", "--config", config, "--seed", str(self.seed), "--max-seconds", str(self.scale.training_seconds)
        )
        return outcome

    def _await_experiment(self, name: str) -> tuple[str, str]:
        for _ in range(300):
            found = {e["name"]: e for e in self.call("GET", "/v1/experiments")["experiments"]}
            if name in found and found[name]["state"] == "running":
                weights: dict[str, float] = found[name]["weights"]
                self.say(f"  {name!r} runs by itself with {weights}")
                return name, next(arm for arm in weights if arm != found[name]["definition"]["control"])
            time.sleep(0.1)
        raise RuntimeError(f"the gateway did not start {name!r} within 30 s of its announcement")

    def _compare(self, truth: dict[str, Any]) -> None:
        self.say("\n── What the audience truly preferred (hidden utility of the pictures it saw), next to what Salon found")
        for experiment in self.experiments:
            for metric in experiment["report"]["metrics"]:
                if metric["role"] != "primary":
                    continue
                for c in metric["comparisons"]:
                    gap = self.truth[c["arm"]] - self.truth[c["vs"]]
                    self.say(
                        f"  {experiment['name']}: {c['arm']} against {c['vs']}: true utility {gap:+.2f} logits; "
                        f"Salon: {_signed_percent(c['relative']['value'])} {metric['metric']}, "
                        f"decision {experiment['report']['decision']['action']}"
                    )
        candidate, champion = truth["candidate"], truth["champion"]
        if candidate and self.truth[candidate] <= self.truth[champion]:
            self.say(f"  The candidate is not better than {champion!r} this time; Salon keeps what serves people best.")
        self.say(f"\nIn {self.folder}: report-*.html (open in a browser), report-*.json, salon.toml, var/ (everything else)")
        self.say(f"Total {sum(self.seconds.values()):.0f} s: " + ", ".join(f"{k} {v:.0f}" for k, v in self.seconds.items()))


def _counts(report: dict[str, Any]) -> str:
    primary = next(m for m in report["metrics"] if m["role"] == "primary")
    return ", ".join(f"{a['arm']} {a['mean']:.0%} of {a['n']}" for a in primary["arms"] if a["n"])


def _signed_percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.0%}"
