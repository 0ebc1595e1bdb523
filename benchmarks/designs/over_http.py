"""Every design through a real gateway: people of known tastes ask, look and answer over HTTP, and reports are read all the while.

python benchmarks/designs/over_http.py [--quick]

The tastes stay in this script. It ends with exit code 1 when an interval that holds at any look leaves out the truth, when shares of
traffic are not what the logged propensities say, or when the gateway recommends what the truth does not.
"""

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from door import Door, Watch, visits  # noqa: E402
from gateway_process import GatewayProcess  # noqa: E402
from machine import machine  # noqa: E402

# How often each place of a 2 x 2 grid is looked at.
LOOKS = (1.0, 0.7, 0.5, 0.35)
SEASON_VISITS = 600
SETTINGS = """\
[variants.a]
extends = "base"
steps = 1
guidance = 1.0
[variants.b]
extends = "a"
scheduler = "euler"
[variants.c]
extends = "a"
scheduler = "dpm++"
[routes.hero]
serve = "a"
[metrics.like_rate]
kind = "proportion"
event = "like"
[metrics.liked_pictures]
kind = "mean"
event = "like"
[metrics.preferred]
kind = "proportion"
event = "preference"
[experiments.contest]
route = "hero"
control = "a"
"""
DESIGNS = {
    "bandit": """\
arms = { a = 0.4, b = 0.3, c = 0.3 }
design = "bandit"
bandit = { every_minutes = 0.05, maturity_hours = 0 }
primary = "like_rate"
minimum_units = 40
planned_units = 1500
""",
    "interleave": """\
arms = { a = 0.5, b = 0.5 }
design = "interleave"
primary = "liked_pictures"
minimum_units = 40
planned_units = 400
""",
    "duel": """\
arms = { a = 0.34, b = 0.33, c = 0.33 }
design = "duel"
duel = { pairs = "active", every_minutes = 0.05 }
primary = "preferred"
minimum_units = 30
planned_units = 400
""",
    "switchback": """\
arms = { a = 0.5, b = 0.5 }
design = "switchback"
switchback = { block_minutes = 0.025, washout_minutes = 0.004 }
primary = "like_rate"
minimum_units = 10
planned_units = 60
""",
}


async def bandit(door: Door, chance: random.Random, quick: bool, restart: Callable[[], Awaitable[None]]) -> list[str]:
    """Rates that swing by half with the season, likes that come late, a restart and a retired arm in the middle."""
    rates, count = {"a": 0.20, "b": 0.16, "c": 0.40}, 240 if quick else 2400
    late: list[tuple[int, dict[str, Any]]] = []
    watch = Watch(door, {})
    shown, seasons = Counter[str](), list[float]()

    async def visit(number: int) -> None:
        season = 1 + 0.5 * math.sin(2 * math.pi * number / SEASON_VISITS)
        seasons.append(season)
        # What is true of those who have come so far.
        mean = sum(seasons) / len(seasons)
        watch.truth = {arm: mean * (rate - rates["a"]) for arm, rate in rates.items()}
        answer, (arm,) = await door.ask(f"person-{number}", 1)
        shown[arm] += 1
        if chance.random() < min(1.0, rates[arm] * season):
            late.append((number + chance.randrange(1, 40), answer))
        due = [entry for entry in late if entry[0] <= number]
        late[:] = [entry for entry in late if entry[0] > number]
        for entry in due:
            await door.say(entry[1], [{"kind": "like"}])

    half = count // 2
    await visits(half, visit, watch, count // 12)
    before = (await door.state())["weights"]
    await restart()
    after = (await door.state())["weights"]
    assert max(abs(after[arm] - before[arm]) for arm in before) < 0.5, (before, after)
    fractions = await assignment_shares(door, 10_000 if quick else 100_000)
    regret_split = sum(max(rates.values()) - rate for rate in rates.values()) / 3
    await door.call("PATCH", "/v1/experiments/contest", {"weights": retire(after, "b"), "why": "costs too much"})
    start = half
    await visits(count - half, lambda number: visit(start + number), watch, count // 12)
    for _, answer in late:
        await door.say(answer, [{"kind": "like"}])
    await watch.look()
    weights = (await door.state())["weights"]
    regret = sum((max(rates.values()) - rates[arm]) * n for arm, n in shown.items()) / shown.total()
    return [
        f"bandit: {count} people, 3 arms, b retired at half, restarted once",
        *watch.lines(),
        f"  weights at the end {', '.join(f'{arm} {weight:.3f}' for arm, weight in weights.items())}",
        f"  regret {regret:.3f} a person, of an even split {regret_split:.3f}",
        f"  shares of assignments against weights: {fractions}",
        *([] if weights["b"] == 0 else ["  WRONG the retired arm has a weight again"]),
        *([] if weights["c"] > 0.6 or quick else ["  WRONG the best arm does not have most of the traffic"]),
    ]


def retire(weights: dict[str, float], arm: str) -> dict[str, float]:
    """The others share what it had, in proportion."""
    rest = 1 - weights[arm]
    kept = {name: 0.0 if name == arm else weight / rest for name, weight in weights.items()}
    last = next(name for name in kept if name != arm)
    kept[last] += 1 - math.fsum(kept.values())
    return kept


async def assignment_shares(door: Door, units: int) -> str:
    """Of people never seen: how many get each arm, in standard errors from the propensities told."""
    found, told = Counter[str](), dict[str, float]()
    for start in range(0, units, 1000):
        asked = {"route": "hero", "units": [f"stranger-{number}" for number in range(start, start + 1000)]}
        for one in (await door.call("POST", "/v1/assignments", asked))[0]["assignments"]:
            found[one["arm"]] += 1
            told[one["arm"]] = one["propensity"]
    apart = {arm: (found[arm] - units * p) / math.sqrt(units * p * (1 - p)) for arm, p in told.items() if 0 < p < 1}
    wrong = "  WRONG" if any(abs(z) > 4.5 for z in apart.values()) else ""
    return ", ".join(f"{arm} {found[arm] / units:.4f} for {told[arm]:.4f} ({z:+.1f} se)" for arm, z in sorted(apart.items())) + wrong


async def interleave(door: Door, chance: random.Random, quick: bool, restart: Callable[[], Awaitable[None]]) -> list[str]:
    """Pictures of both arms in one grid; people look at some places more than at others."""
    attraction, count = {"a": 0.25, "b": 0.40}, 80 if quick else 500
    places = Counter[tuple[str, int]]()
    watch = Watch(door, {"b": won_against(attraction["a"], attraction["b"])})

    async def visit(number: int) -> None:
        answer, arms = await door.ask(f"person-{number}", 4)
        events = []
        for item, arm in zip(answer["data"], arms, strict=True):
            places[arm, item["position"]] += 1
            if chance.random() < LOOKS[item["position"]] * attraction[arm]:
                events.append({"kind": "like", "image_id": item["image_id"]})
        await door.say(answer, events)

    await visits(count, visit, watch, count // 5)
    await restart()
    await watch.look()
    share = [places["a", place] / (places["a", place] + places["b", place]) for place in range(4)]
    wrong = "  WRONG" if any(abs(s - 0.5) > 4.5 * 0.5 / math.sqrt(count) for s in share) else ""
    position = watch.last["position"]
    return [
        f"interleave: {count} people, grids of 4",
        *watch.lines(),
        f"  share of a in each place: {', '.join(f'{s:.3f}' for s in share)}{wrong}",
        f"  places are truly looked at {', '.join(f'{look:.2f}' for look in LOOKS)}; the report: {places_told(position)}",
    ]


def won_against(a: float, b: float) -> float:
    """Grids of two pictures each, in random places: P(b got more likes) - P(a did), of grids with any like."""
    from itertools import permutations, product

    won = total = 0.0
    orders = list(permutations("aabb"))
    for order in orders:
        for liked in product((0, 1), repeat=4):
            p = 1 / len(orders)
            for place, (arm, like) in enumerate(zip(order, liked, strict=True)):
                chance = LOOKS[place] * (a if arm == "a" else b)
                p *= chance if like else 1 - chance
            likes = {arm: sum(like for of, like in zip(order, liked, strict=True) if of == arm) for arm in "ab"}
            if any(liked):
                won += p * ((likes["b"] > likes["a"]) - (likes["b"] < likes["a"]))
                total += p
    return won / total


def places_told(position: Any) -> str:
    """How much the report says that each place is looked at, with its interval."""
    cells = [cell["examination"] for grid in position["grids"] for cell in grid["cells"]] if position else []
    told = [f"{cell['value']:.2f} ({cell['ci'][0]:.2f} to {cell['ci'][1]:.2f})" for cell in cells if cell]
    return ", ".join(told) or "nothing yet"


async def duel(door: Door, chance: random.Random, quick: bool, restart: Callable[[], Awaitable[None]]) -> list[str]:
    """Two pictures side by side; some ties, some who always take the left one."""
    strength, count = {"a": 0.0, "b": 0.6, "c": 1.2}, 80 if quick else 700
    tie, left = 0.2, 0.1

    def net(arm: str) -> float:
        """E(score) of `arm` against a, made of what people truly do, as 2 x score - 1."""
        won = 1 / (1 + math.exp(strength["a"] - strength[arm]))
        return (1 - left) * (1 - tie) * (2 * won - 1)

    watch = Watch(door, {arm: net(arm) for arm in strength})
    pairs = Counter[str]()

    async def visit(number: int) -> None:
        answer, (one, two) = await door.ask(f"person-{number}", 2)
        pairs["|".join(sorted((one, two)))] += 1
        first, second = (item["image_id"] for item in answer["data"])
        drawn, tied = chance.random(), False
        if drawn < left:
            winner, loser = first, second
        else:
            tied = chance.random() < tie
            takes_first = chance.random() < 1 / (1 + math.exp(strength[two] - strength[one]))
            winner, loser = (first, second) if takes_first else (second, first)
        choice = {"winner": winner, "loser": loser, "tie": tied, "rater": f"person-{number}", "feedback_token": answer["feedback_token"]}
        await door.call("POST", "/v1/preferences", choice)

    await visits(count, visit, watch, count // 7)
    await restart()
    await watch.look()
    return [f"duel: {count} people, 3 arms, active pairs", *watch.lines(), f"  pairs shown: {dict(pairs)}", *board(watch.last["board"])]


def board(report: Any) -> list[str]:
    """The report's board: Elo with its interval, and the ranks that are not excluded."""
    if not report:
        return ["  WRONG no board"]
    found = []
    for one in report["standings"]:
        span = "no interval" if one["elo_ci"] is None or one["elo_ci"][0] is None else f"{one['elo_ci'][0]:.0f} to {one['elo_ci'][1]:.0f}"
        ranks = "to".join(f" {rank} " for rank in one["ranks"]).strip() if one["ranks"] else "none"
        found.append(f"{one['arm']} {one['elo']:.0f} ({span}), rank {ranks}" if one["elo"] is not None else f"{one['arm']}: {one['why']}")
    return [f"  {report['model']}: {'; '.join(found)}"]


async def switchback(door: Door, chance: random.Random, quick: bool, restart: Callable[[], Awaitable[None]]) -> list[str]:
    """A route that switches as a whole, every 1.5 seconds."""
    rates, seconds = {"a": 0.3, "b": 0.6}, 20 if quick else 120
    watch = Watch(door, {"b": rates["b"] - rates["a"]})
    began, number = time.monotonic(), 0

    async def visit(visitor: int) -> None:
        answer, (arm,) = await door.ask(f"person-{visitor}", 1)
        await door.say(answer, [{"kind": "like"}] if chance.random() < rates[arm] else [])

    while time.monotonic() - began < seconds:
        start = number
        await visits(40, lambda each, start=start: visit(start + each), watch, 40)  # type: ignore[misc]
        number += 40
    await restart()
    await asyncio.sleep(2)
    await watch.look()
    return [f"switchback: {number} people in {seconds} s, blocks of 1.5 s", *watch.lines(), f"  pictures: {dict(door.counts)}"]


STORIES = {"bandit": bandit, "interleave": interleave, "duel": duel, "switchback": switchback}


async def tell(name: str, folder: Path, seed: int, quick: bool) -> list[str]:
    """One design from its start to its last report, in a gateway of its own."""
    gateway = GatewayProcess(folder / name, contest=SETTINGS + DESIGNS[name] + "autostart = true\n")
    gateway.start()
    gateway.ready()
    try:
        headers = {"Authorization": f"Bearer {gateway.key}"}
        async with aiohttp.ClientSession(gateway.url, headers=headers, timeout=aiohttp.ClientTimeout(300)) as session:

            async def restart() -> None:
                await asyncio.to_thread(gateway.stop)
                gateway.start()
                await asyncio.to_thread(gateway.ready)

            return await STORIES[name](Door(session), random.Random(seed), quick, restart)
    except RuntimeError:
        print((folder / name / "serve.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        gateway.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[*STORIES, []])
    parser.add_argument("--quick", action="store_true", help="few people: does it run?")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    print(machine("salon", "chdb", "onnxruntime"))
    right = True
    with tempfile.TemporaryDirectory(prefix="salon-designs-") as folder:
        for name in arguments.name or STORIES:
            began = time.monotonic()
            lines = asyncio.run(tell(name, Path(folder), arguments.seed, arguments.quick))
            print("\n" + "\n".join(lines), f"\n  {time.monotonic() - began:.0f} s", flush=True)
            right = right and not any("WRONG" in line for line in lines)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
