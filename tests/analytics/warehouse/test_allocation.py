"""A bandit's draws by push-down SQL against the same sums from plain Python; what of its facts compares naive means is not there."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from analytics.designs import Bandit
from analytics.events import Event, derived_id, new_id
from analytics.experiment import Experiment, Guardrail, Metric
from analytics.facts import ExperimentFacts
from analytics.inference.adaptive import AllocationPeriod, mean
from analytics.report.build import build_report, rebuild
from analytics.warehouse.allocation import read_mature
from analytics.warehouse.client import Warehouse
from analytics.warehouse.facts import read_facts
from analytics.warehouse.rollups import rebuild_dirty
from analytics.warehouse.rows import to_arrow

NAME = "bandit"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
# "c" is added at 8 hours, "b" retired at 20.
WEIGHTS = [(0, {"a": 0.5, "b": 0.5, "c": 0.0}), (8, {"a": 0.3, "b": 0.3, "c": 0.4}), (20, {"a": 0.25, "b": 0.0, "c": 0.75})]
METRICS = {
    "likes": Metric(kind="proportion", event="like", window_hours=5),
    "spend": Metric(kind="mean", event="convert", covariate_days=1),
    "ctr": Metric(kind="ratio", event="like", denominator="view"),
    "median": Metric(kind="quantile", event="convert", quantile=0.5),
}
EXPERIMENT = Experiment(
    route="hero",
    arms={"a": 0.5, "b": 0.5, "c": 0.0},
    control="a",
    primary="likes",
    secondary=("spend", "ctr", "median"),
    guardrails={"failure_rate": Guardrail(margin=0.5)},
    design="bandit",
    bandit=Bandit(),
    breakdowns=("country",),
    strata="country",
)
RATES = {"a": 0.3, "b": 0.4, "c": 0.5}


def weights_at(hours: float) -> dict[str, float]:
    return next(weights for since, weights in reversed(WEIGHTS) if since <= hours)


class Told:
    """What was sent: per unit its first arm, propensity, hour, and what it did; and the events of it."""

    def __init__(self, seed: int, units: int = 420) -> None:
        chance = random.Random(seed)
        self.events: list[Event] = [self._control(0, "start", {})]
        self.events += [self._control(hours, "weights", {"weights": weights}) for hours, weights in WEIGHTS[1:]]
        self.units: dict[str, dict[str, Any]] = {}
        for number in range(units):
            hours = chance.uniform(0, 30)
            # A request on its way when weights changed: drawn with those of a moment before.
            drawn = weights_at(hours - 0.3 if hours > 0.3 else 0)
            (arm,) = chance.choices(list(drawn), list(drawn.values()))
            unit = f"u{number}"
            flagged = chance.random() < 0.05
            one = {"arm": arm, "chance": drawn[arm], "hours": hours, "likes": 0, "views": 0, "spend": 0.0, "flagged": False}
            self.units[unit] = one
            logged = None if number % 60 == 7 else drawn[arm]
            one["chance"] = logged
            self._add(unit, arm, "exposure", hours, propensity=logged, attributes={"country": "DE"})
            if number % 9 == 0:
                self._add(unit, "c" if arm == "a" else "a", "exposure", hours + 9, propensity=0.3)
            self._add(unit, arm, "generation", hours, queue_ms=1.0, service_ms=200.0 + (50 if arm == "c" else 0), status="ok")
            for _ in range(chance.randint(0, 3)):
                self._add(unit, arm, "view", hours + 1)
                one["views"] += 1
                if chance.random() < RATES[arm]:
                    self._add(unit, arm, "like", hours + 2, flags=1 if flagged else 0)
                    one["likes"] += 0 if flagged else 1
                    one["flagged"] |= flagged
            if chance.random() < 0.3:
                value = chance.uniform(1, 9)
                self._add(unit, arm, "convert", hours + chance.choice([2, 40]), value=value)
                one["spend"] += value

    def _control(self, hours: float, action: str, changed: dict[str, Any]) -> Event:
        attributes = {"action": action, "who": "policy", "why": "", "changed": msgspec.json.encode(changed).decode()}
        at = START + timedelta(hours=hours)
        return Event(
            event_id=derived_id(at, action, str(hours)),
            kind="control",
            occurred_at=at,
            received_at=at,
            experiment=NAME,
            attributes=attributes,
        )

    def _add(self, unit: str, arm: str, kind: str, hours: float, **fields: Any) -> None:
        at = START + timedelta(hours=hours, microseconds=len(self.events))
        self.events.append(
            Event(
                event_id=derived_id(at, unit, str(len(self.events))),
                kind=kind,
                occurred_at=at,
                received_at=at,
                experiment=NAME,
                unit=unit,
                arm=arm,
                **fields,
            )
        )

    def sums(self, number: str, until: float = 1e9) -> dict[tuple[int, str, float], tuple[int, float, float]]:
        """Per stretch, arm and propensity: units, sum, sum of squares."""
        found: dict[tuple[int, str, float], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
        for one in self.units.values():
            if one["chance"] is None or one["hours"] >= until:
                continue
            y = float(one[number] > 0) if number == "likes" else float(one[number])
            place = sum(since <= one["hours"] for since, _ in WEIGHTS) - 1
            row = found[place, one["arm"], one["chance"]]
            row[0], row[1], row[2] = row[0] + 1, row[1] + y, row[2] + y * y
        return {key: (int(n), s1, s2) for key, (n, s1, s2) in found.items()}


@pytest.fixture(scope="module")
def told(warehouse: Warehouse) -> Told:
    told = Told(3)
    insert(warehouse, told.events)
    return told


@pytest.fixture(scope="module")
def facts(warehouse: Warehouse, told: Told) -> Iterator[ExperimentFacts]:
    yield read_facts(warehouse, NAME, EXPERIMENT, METRICS)


def insert(warehouse: Warehouse, events: Sequence[Event]) -> None:
    warehouse.insert_exact(str(new_id()), to_arrow(list(events)))


@pytest.mark.parametrize(("metric", "number"), [("likes", "likes"), ("spend", "spend")])
def test_draws_are_what_a_count_gives(facts: ExperimentFacts, told: Told, metric: str, number: str) -> None:
    got = {
        (place, arm, draw.propensity): (
            draw.joint.n,
            draw.joint.n * draw.joint.means[0],
            draw.joint.products[0][0] + draw.joint.n * draw.joint.means[0] ** 2,
        )
        for place, stretch in enumerate(facts.allocation)
        for arm, draws in stretch.draws[metric].items()
        for draw in draws
    }
    assert [stretch.weights for stretch in facts.allocation] == [weights for _, weights in WEIGHTS]
    wanted = told.sums(number)
    assert got.keys() == wanted.keys()
    assert any(chance != facts.allocation[place].weights[arm] for place, arm, chance in got), "no draw with the weights of before"
    for key, sums in wanted.items():
        assert got[key] == pytest.approx(sums, rel=1e-9), key


def test_the_sql_that_is_shown_gives_the_same_sums(warehouse: Warehouse, facts: ExperimentFacts, told: Told) -> None:
    wanted: dict[tuple[str, float], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for (_, arm, chance), (n, s1, _) in told.sums("likes").items():
        wanted[arm, chance] = [wanted[arm, chance][0] + n, wanted[arm, chance][1] + s1]
    rows = warehouse.query(facts.sql["likes"])
    assert {(arm, chance): [n, s1] for arm, chance, n, s1, _ in rows if chance is not None} == wanted


def test_every_unit_counts_where_it_was_drawn_first(facts: ExperimentFacts, told: Told) -> None:
    assert facts.multiple_exposure == 0
    for arm in facts.arms:
        assert arm.units == sum(one["arm"] == arm.arm for one in told.units.values())


def test_nothing_compares_what_was_met_at_other_times(facts: ExperimentFacts) -> None:
    assert (facts.joint, facts.by_period, facts.by_stratum, facts.breakdowns, facts.cohorts, facts.ages, facts.pre_period) == (
        {},
        {},
        {},
        {},
        [],
        [],
        {},
    )
    # Latency by draws: "c" takes 50 ms longer for everybody; the estimate errs by what arms were favoured by chance.
    gap = facts.latency["c"].mean - facts.latency["a"].mean
    se = sum(facts.latency[arm].m2 / (n := facts.latency[arm].n) / (n - 1) for arm in ("a", "c")) ** 0.5
    assert 0 < se < 10 and abs(gap - 50) < 3 * se


def test_rollups_say_what_events_say(warehouse: Warehouse, facts: ExperimentFacts) -> None:
    """The events were read before they were rolled up; another definition is not given the facts that are stored."""
    rebuild_dirty(warehouse)
    again = read_facts(warehouse, NAME, msgspec.structs.replace(EXPERIMENT, planned_units=6000), METRICS)
    assert len(again.allocation) == len(facts.allocation) == 3
    for left, right in zip(facts.allocation, again.allocation, strict=True):
        for metric, arms in left.draws.items():
            assert arms.keys() == right.draws[metric].keys()
            for arm, draws in arms.items():
                for one, other in zip(draws, right.draws[metric][arm], strict=True):
                    assert (one.propensity, one.joint.n) == (other.propensity, other.joint.n)
                    assert one.joint.means == pytest.approx(other.joint.means, rel=1e-12)
                    assert [x for row in one.joint.products for x in row] == pytest.approx([x for row in other.joint.products for x in row])


def test_mature_units_are_those_of_before(warehouse: Warehouse, told: Told) -> None:
    until = 12.0
    periods = read_mature(warehouse, NAME, EXPERIMENT, METRICS, START + timedelta(hours=until))
    wanted = told.sums("likes", until)
    assert [period.units for period in periods] == [sum(n for (p, _, _), (n, _, _) in wanted.items() if p == place) for place in (0, 1)]
    assert list(periods[0].arms) == ["a", "b"] and list(periods[1].arms) == ["a", "b", "c"]
    for place, period in enumerate(periods):
        for arm, state in period.arms.items():
            rows = {chance: sums for (p, a, chance), sums in wanted.items() if (p, a) == (place, arm)}
            assert (state.n, state.s1) == (sum(n for n, _, _ in rows.values()), pytest.approx(sum(s1 for _, s1, _ in rows.values())))
            # The sums of the notes, with the propensity of every draw.
            m = state.prediction
            assert state.residuals() == pytest.approx(
                (
                    sum((s1 - n * m) / e for e, (n, s1, _) in rows.items()),
                    sum((s2 - 2 * m * s1 + n * m * m) / e**2 for e, (n, s1, s2) in rows.items()),
                ),
                rel=1e-9,
            )
    assert mean(periods, "a") is not None and mean(periods, "c") is None
    assert read_mature(warehouse, NAME, EXPERIMENT, METRICS, START) == []
    assert read_mature(warehouse, "unheard-of", EXPERIMENT, METRICS, START) == []
    assert isinstance(periods[0], AllocationPeriod)


def test_the_report_on_it(facts: ExperimentFacts, told: Told) -> None:
    report = build_report(NAME, EXPERIMENT, METRICS, facts, START + timedelta(hours=40))
    assert msgspec.json.encode(rebuild(report)) == msgspec.json.encode(report)
    assert report.adaptive is not None and report.checks.srm.ok and report.checks.propensities.ok
    likes, _, ctr, median, _ = report.metrics
    assert all(c.p_value is not None and "in which both could be got" in c.method for c in likes.comparisons)
    assert all(c.p_value is not None for c in ctr.comparisons)
    assert [arm.mean for arm in median.arms] == [None, None, None]
    # Whom the log does not know a propensity of counts in no estimate, and is told of.
    unknown = sum(one["chance"] is None for one in told.units.values())
    assert unknown and any(f"{unknown} units came without" in risk for risk in report.decision.risks)
    # Flagged likes are counted by the same estimate.
    beside = report.checks.flagged.primary_with
    assert beside is not None and all("AIPW" in c.method for c in beside.comparisons)
