"""People at a real gateway's door: they ask, answer, and read reports beside a truth that only the caller knows."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

AT_ONCE = 6


@dataclass
class Door:
    """The gateway as an app meets it. `counts`: pictures shown by arm."""

    session: aiohttp.ClientSession
    counts: Counter[str] = field(default_factory=Counter)

    async def ask(self, unit: str, n: int) -> tuple[dict[str, Any], list[str]]:
        """Pictures, and the arm of each."""
        wish = {"model": "hero", "prompt": "a red heart", "n": n, "user": unit, "response_format": "b64_json"}
        answer, headers = await self.call("POST", "/v1/images/generations", wish)
        arms = headers.get("Salon-Arm", "").split(",")
        arms = arms * n if len(arms) == 1 else arms
        self.counts.update(arms)
        return answer, arms

    async def say(self, answer: dict[str, Any], events: Sequence[dict[str, Any]]) -> None:
        """What somebody did about an answer."""
        if events:
            said, _ = await self.call("POST", "/v1/feedback", {"feedback_token": answer["feedback_token"], "events": list(events)})
            assert all(result["status"] == "accepted" for result in said["results"]), said

    async def report(self) -> dict[str, Any]:
        """The report of now."""
        return (await self.call("GET", "/v1/experiments/contest/report"))[0]

    async def state(self) -> dict[str, Any]:
        """The experiment as it is shown."""
        return (await self.call("GET", "/v1/experiments/contest"))[0]

    async def call(self, method: str, path: str, body: object = None) -> tuple[dict[str, Any], Any]:
        """One call; overload is waited for. Raises RuntimeError on a refusal."""
        for _ in range(100):
            async with self.session.request(method, path, json=body) as response:
                if response.status in (429, 503):
                    await asyncio.sleep(0.2)
                    continue
                document = await response.json()
                if response.status >= 300:
                    raise RuntimeError(f"{method} {path} answered {response.status}: {document}")
                return document, response.headers
        raise RuntimeError(f"{method} {path}: refused a hundred times")


class Watch:
    """Reads reports while people come, and keeps each always-valid interval that leaves out the truth."""

    def __init__(self, door: Door, truth: dict[str, float]) -> None:
        self.door, self.truth = door, truth
        self.looks, self.wrong, self.last = 0, list[str](), dict[str, Any]()

    async def look(self) -> dict[str, Any]:
        self.last = await self.door.report()
        self.looks += 1
        for metric in self.last["metrics"][:1]:
            for one in metric["comparisons"]:
                low, high = (one["always_valid"] or {"difference_ci": (None, None)})["difference_ci"]
                truth = self.truth[one["arm"]]
                if (low is not None and low > truth) or (high is not None and high < truth):
                    self.wrong.append(f"look {self.looks}: {one['arm']} in {low:+.3f} to {high:+.3f}, truly {truth:+.3f}")
        return self.last

    def lines(self) -> list[str]:
        """The last report's comparisons, beside the truth."""
        found = []
        for one in self.last["metrics"][0]["comparisons"]:
            low, high = (one["always_valid"] or {"difference_ci": (None, None)})["difference_ci"]
            span = "unbounded" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
            value = one["difference"]["value"]
            told = "none" if value is None else f"{value:+.3f}"
            found.append(f"  {one['arm']} - {one['vs']}: {told}, at any look {span}; truth {self.truth[one['arm']]:+.3f}")
        decision = self.last["decision"]
        found.append(f"  {self.looks} looks, {len(self.wrong)} beside the truth; decision: {decision['action']} {decision['arm'] or ''}")
        return found + [f"  WRONG {text}" for text in self.wrong]


async def visits(count: int, visit: Callable[[int], Awaitable[None]], watch: Watch, every: int) -> None:
    """`count` people, some at a time; a report after each `every`."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await visit(number)

    for start in range(0, count, every):
        await asyncio.gather(*(one(number) for number in range(start, min(count, start + every))))
        await watch.look()
