"""Drives the gateway over HTTP with people of the simulated audience, some at a time."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import aiohttp

from salon.demo.audience import Person, Taste, decode_pictures


class Ledger:
    """What the demo writes down for the honest yardstick: the true utility of every picture, by arm. Never sent anywhere."""

    def __init__(self) -> None:
        self.utilities: dict[str, list[float]] = defaultdict(list)
        self.images = 0
        self.likes = 0

    def mean(self, arm: str) -> float | None:
        values = self.utilities.get(arm)
        return sum(values) / len(values) if values else None


class Crowd:
    """The audience at the gateway's door. `key` needs the scopes generate, feedback and analyst (to learn the arm for the ledger)."""

    def __init__(self, url: str, key: str, taste: Taste, ledger: Ledger, at_once: int = 12) -> None:
        self._url, self._key, self._taste, self._ledger = url, key, taste, ledger
        self._at_once = at_once

    async def visit(self, people: Sequence[Person], after_each: Callable[[], None], pictures: int = 2) -> None:
        """Every person asks for their prompt once, looks, and likes what they like. Raises RuntimeError on a refusal."""
        gate = asyncio.Semaphore(self._at_once)
        headers = {"Authorization": f"Bearer {self._key}"}
        async with aiohttp.ClientSession(self._url, headers=headers, timeout=aiohttp.ClientTimeout(300)) as session:

            async def one(person: Person) -> None:
                async with gate:
                    await self._visit(session, person, pictures)
                    after_each()

            await asyncio.gather(*(one(p) for p in people))

    async def _visit(self, session: aiohttp.ClientSession, person: Person, pictures: int) -> None:
        wish = {
            "model": "hero",
            "prompt": person.prompt,
            "n": pictures,
            "user": person.name,
            "seed": person.seed,
            "response_format": "b64_json",
        }
        answer, arm = await self._post(session, "/v1/images/generations", wish)
        seen = decode_pictures(answer["data"])
        events: list[dict[str, Any]] = []
        for reaction in person.react(seen):
            UUID(reaction.image_id)
            fact = {"generation_id": answer["generation_id"], "image_id": reaction.image_id}
            if reaction.seen:
                events.append(fact | {"kind": "view"})
            if reaction.liked:
                events.append(fact | {"kind": "like"})
        if events:
            said, _ = await self._post(session, "/v1/feedback", {"feedback_token": answer["feedback_token"], "events": events})
            refused = [r for r in said["results"] if r["status"] == "rejected"]
            if refused:
                raise RuntimeError(f"feedback was refused: {refused[0]}")
        self._ledger.images += len(seen)
        self._ledger.likes += sum(e["kind"] == "like" for e in events)
        self._ledger.utilities[arm] += [self._taste.utility(rgb) for _, _, rgb in seen]

    async def _post(self, session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        for _ in range(20):
            async with session.post(path, json=body) as response:
                if response.status in {429, 503}:
                    await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
                    continue
                answer = await response.json()
                if response.status >= 300:
                    raise RuntimeError(f"POST {path} answered {response.status}: {answer}")
                return answer, response.headers.get("Salon-Arm", "")
        raise RuntimeError(f"POST {path} was refused 20 times for overload")
