"""Facts from daily rollups against facts from the events alone, while events come late, twice, flagged, moved, erased; stored facts."""

import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from local_clickhouse import LocalClickHouse

from analytics.events import Event, derived_id, new_id
from analytics.experiment import Exclusion, Experiment, Metric
from analytics.facts import ExperimentFacts
from analytics.report.build import report_now
from analytics.warehouse import facts as facts_module
from analytics.warehouse.client import Warehouse
from analytics.warehouse.facts import facts_from_events, read_facts
from analytics.warehouse.generations import begin_generation, copy_unreplayed, drop_old_generation, swap_generation
from analytics.warehouse.rollups import dirty_days, rebuild_dirty
from analytics.warehouse.rows import to_arrow

START = datetime(2026, 3, 1, 23, tzinfo=UTC)
EXPERIMENT = Experiment(
    route="hero",
    arms={"a": 0.5, "b": 0.5},
    control="a",
    primary="spend",
    secondary=("likes",),
    breakdowns=("country",),
    strata="device",
    exclude=Exclusion(units=("qa-*",), context={"country": "XX"}, events_per_hour_above=6),
)
METRICS = {
    "likes": Metric(kind="proportion", event="like", window_hours=30, covariate_days=3),
    "spend": Metric(kind="mean", event="convert", cap="p90", covariate_days=5, covariates=("ctr", "likes")),
    "ctr": Metric(kind="ratio", event="like", denominator="view", covariate_days=2),
    "red": Metric(kind="mean", event="convert", where={"colour": ("red", "pink")}, window_hours=24),
    "price": Metric(kind="mean", event="convert", per="event"),
    "liked": Metric(kind="proportion", event="like", per="generation"),
    "median": Metric(kind="quantile", event="convert", quantile=0.5),
    "wins": Metric(kind="mean", event="preference", window_hours=60),
}


def event(name: str, number: int, unit: str, **fields: Any) -> Event:
    """One that follows from its number: kind, hour, value, context."""
    kind = ("exposure", "generation", "like", "convert", "view", "preference", "convert", "like")[number % 8]
    at = START + timedelta(hours=(number * 7) % 90 - 20, microseconds=number)
    known: dict[str, Any] = {
        "event_id": derived_id(at, name, unit, str(number)),
        "kind": kind,
        "occurred_at": at,
        "received_at": at + timedelta(hours=(number % 5) * 20),
        "experiment": name,
        "arm": "ab"[sum(unit.encode()) % 2] if number % 23 else "b",
        "unit": unit,
        "variant_digest": f"digest-{number % 2}",
        "propensity": 0.5 if kind == "exposure" else None,
        "value": None if number % 3 == 0 else number % 11 / 2 - 1,
        "attributes": {
            "country": ("DE", "FR", "XX", "")[sum(unit.encode()) % 4],
            "device": "phone" if number % 2 else "",
            "colour": "red" if number % 4 else "pink",
        },
        "generation_id": derived_id(START, name, unit, str(number % 3)) if kind in {"generation", "like"} else None,
        "queue_ms": number % 13 if kind == "generation" else None,
        "service_ms": 100.0 if kind == "generation" and number % 9 else None,
        "status": "failed" if kind == "generation" and number % 7 == 1 else "ok",
        "route": "hero",
    }
    return Event(**known | fields)


def insert(warehouse: Warehouse, events: Sequence[Event]) -> None:
    if events:
        warehouse.insert_exact(str(new_id()), to_arrow(list({each.event_id: each for each in events}.values())))


def control(name: str, at: datetime, action: str, changed: dict[str, Any]) -> Event:
    attributes = {"action": action, "who": "test", "why": "", "changed": msgspec.json.encode(changed).decode()}
    return Event(
        event_id=derived_id(at, name, action), kind="control", occurred_at=at, received_at=at, experiment=name, attributes=attributes
    )


def same(a: Any, b: Any, path: str = "") -> None:
    """Counts equal, floats to 1e-9, all the way down."""
    if isinstance(a, dict):
        assert list(map(str, a)) == list(map(str, b)), (path, a, b)
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), (path, a, b)
        for place, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{place}]")
    elif isinstance(a, float) and isinstance(b, int | float):
        assert math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9), (path, a, b)
    else:
        assert a == b, (path, a, b)


def agree(
    warehouse: Warehouse, name: str, experiment: Experiment = EXPERIMENT, metrics: dict[str, Metric] = METRICS, *, both: bool = False
) -> ExperimentFacts:
    for flagged in (False, True) if both else (False,):
        got = read_facts(warehouse, name, experiment, metrics, flagged=flagged)
        same(msgspec.to_builtins(got), msgspec.to_builtins(facts_from_events(warehouse, name, experiment, metrics, flagged=flagged)))
        # What is given again was not computed again, and is the same to the bit.
        assert read_facts(warehouse, name, experiment, metrics, flagged=flagged) == got
    return read_facts(warehouse, name, experiment, metrics)


UNITS = [f"unit-{n}" for n in range(12)] + ["qa-1"]
PAIRS = st.lists(st.tuples(st.integers(0, 400), st.sampled_from(UNITS)), min_size=20, max_size=80, unique=True)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), PAIRS),
        st.tuples(st.just("later again"), PAIRS),
        st.tuples(st.just("flagged"), PAIRS),
        st.tuples(st.just("elsewhere"), PAIRS),
        st.tuples(st.just("trained"), st.sampled_from(UNITS)),
        st.tuples(st.just("erase"), st.sampled_from(UNITS)),
        st.tuples(st.just("earlier exposure"), st.sampled_from(UNITS)),
        st.tuples(st.just("weights"), st.integers(-10, 60)),
        st.tuples(st.just("rebuild"), st.integers(1, 9)),
    ),
    min_size=4,
    max_size=6,
)


# A failing example is not made smaller: each takes seconds.
@settings(
    max_examples=2,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=PAIRS, steps=STEPS)
def test_rollups_and_events_say_the_same_whatever_happens(
    warehouse: Warehouse, first: list[tuple[int, str]], steps: list[tuple[str, Any]]
) -> None:
    name = str(new_id())
    insert(warehouse, [event(name, number, f"{name}-{unit}" if unit != "qa-1" else unit) for number, unit in first])
    for place, (what, given_) in enumerate(steps):
        if what == "rebuild":
            rebuild_dirty(warehouse, given_, lease_seconds=0)
        elif what == "erase":
            warehouse.erase(f"{name}-{given_}")
        elif what == "trained":
            insert(warehouse, [event("", 2, f"{name}-{given_}", kind="trained", variant_digest="digest-1")])
        elif what == "earlier exposure":
            insert(warehouse, [event(name, 8 * place, f"{name}-{given_}", occurred_at=START - timedelta(hours=200 + place))])
        elif what == "weights":
            insert(warehouse, [control(name, START + timedelta(hours=given_), "weights", {"weights": {"a": 0.1, "b": 0.9}})])
        else:
            unit_of = [(number, unit if unit == "qa-1" else f"{name}-{unit}") for number, unit in given_]
            events = [event(name, number, unit) for number, unit in unit_of]
            if what == "later again":
                events = [msgspec.structs.replace(each, received_at=each.received_at + timedelta(days=9), value=77.0) for each in events]
            elif what == "flagged":
                events = [event(name, number + 1000, unit, flags=1 + number % 3) for number, unit in unit_of]
            elif what == "elsewhere":
                events = [event("", number + 2000, unit, arm="") for number, unit in unit_of]
            insert(warehouse, events)
        if place % 3 == 1:
            agree(warehouse, name)
    rebuild_dirty(warehouse, lease_seconds=0)
    agree(warehouse, name, both=True)
    other = msgspec.structs.replace(EXPERIMENT, primary="ctr", breakdowns=("device",), strata=None, exclude=Exclusion())
    agree(warehouse, name, other, {**METRICS, "spend": Metric(kind="mean", event="convert", cap=1.5)})


def simple(name: str, number: int, kind: str, unit: str, hours: float, **fields: Any) -> Event:
    at = START + timedelta(hours=hours)
    return Event(
        event_id=derived_id(at, name, unit, kind, str(number)),
        kind=kind,
        occurred_at=at,
        received_at=at,
        experiment=name,
        unit=unit,
        **fields,
    )


def small(name: str) -> list[Event]:
    """Six units of a and six of b, exposed a day apart by twos: what each did is written out below."""
    made = []
    for n in range(12):
        unit, arm, at = f"{name}{n}", "ab"[n % 2], 24.0 * (n // 4)
        context = {"country": ("DE", "FR")[n // 6], "device": "phone" if n % 3 else ""}
        made.append(simple(name, 0, "exposure", unit, at, arm=arm, propensity=0.25 if n == 0 else 0.5, attributes=context))
        made += [simple("", i, "convert", unit, at - 10 - i, value=float(n + i)) for i in range(n % 3)]  # before, outside the experiment
        made += [simple(name, i, "convert", unit, at + 1 + 24 * i, arm=arm, value=float(n * (i + 1))) for i in range(n % 4)]
        made += (
            [
                simple(
                    name, 9, "generation", unit, at + 1, arm=arm, status="ok", variant_digest=f"d-{arm}", queue_ms=1.0, service_ms=float(n)
                )
            ]
            if n
            else []
        )
    # So that units have lived 4, 3 and 2 days.
    return [*made, simple(name, 1, "view", f"{name}1", 24 * 4 + 1, arm="b")]


BARE = Experiment(route="hero", arms={"a": 0.5, "b": 0.5}, control="a", primary="spend", breakdowns=("country",), strata="device")


def by_hand(values: Sequence[float]) -> tuple[int, Any, Any]:
    mean = sum(values) / len(values)
    return len(values), pytest.approx(mean), pytest.approx(sum((v - mean) ** 2 for v in values))


def spent(n: int) -> float:
    return float(sum(n * (i + 1) for i in range(n % 4)))


def test_breakdowns_strata_cohorts_ages_and_the_time_before_by_hand(warehouse: Warehouse) -> None:
    name = "by-hand"
    insert(warehouse, small(name))
    metrics = {"spend": Metric(kind="mean", event="convert", covariate_days=7)}
    facts = read_facts(warehouse, name, BARE, metrics)
    arms = {"a": [0, 2, 4, 6, 8, 10], "b": [1, 3, 5, 7, 9, 11]}
    for arm, units in arms.items():
        moments = facts.metrics["spend"][arm]
        assert (moments.n, moments.mean, moments.m2) == by_hand([spent(n) for n in units])  # type: ignore[union-attr]
        before = [float(sum(n + i for i in range(n % 3))) for n in units]
        assert (facts.pre_period[arm].n, facts.pre_period[arm].mean, facts.pre_period[arm].m2) == by_hand(before)
        joint = facts.joint["spend"][arm]
        assert (joint.covariates, joint.ratios, joint.ratio) == (("spend",), (False,), False)
        assert (joint.n, joint.means[1], joint.products[1][1]) == by_hand(before)
        product = sum(spent(n) * x for n, x in zip(units, before, strict=True)) - 6 * joint.means[0] * joint.means[1]
        assert joint.products[0][1] == joint.products[1][0] == pytest.approx(product)
        for stratum, fits in (("phone", True), ("(none)", False)):
            part = facts.by_stratum["spend"][stratum][arm]
            assert (part.n, part.means[0], part.products[0][0]) == by_hand([spent(n) for n in units if bool(n % 3) is fits])
    assert facts.by_period == {} and facts.caps == {} and facts.training_units == {} and facts.excluded == {}
    germany, france = facts.breakdowns["country"]
    assert (germany.value, france.value, germany.units) == ("DE", "FR", [{"a": 3, "b": 3}])
    assert (germany.primary["a"].n, germany.primary["a"].mean, germany.primary["a"].m2) == by_hand([spent(n) for n in (0, 2, 4)])  # type: ignore[union-attr]
    assert [(cohort.day.day, cohort.units) for cohort in facts.cohorts] == [(day, [{"a": 2, "b": 2}]) for day in (1, 2, 3)]
    assert (facts.cohorts[1].primary["b"].n, facts.cohorts[1].primary["b"].mean, facts.cohorts[1].primary["b"].m2) == by_hand(
        [spent(5), spent(7)]
    )
    assert [age.day for age in facts.ages] == [0, 1, 2, 3]
    # On the third day of life (2): units 0 to 7 have lived through it, of which 3 and 7 spent three times their number.
    assert (facts.ages[2].primary["b"].n, facts.ages[2].primary["b"].mean, facts.ages[2].primary["b"].m2) == by_hand([0, 9, 0, 21])
    assert facts.ages[3].primary["a"].n == 2
    a, b = facts.arms
    assert (a.exposed_without_generation, b.exposed_without_generation) == (1, 0)
    assert (a.mean_inverse_propensity, a.inverse_propensity_m2) == (pytest.approx(14 / 6), pytest.approx(16 + 20 - 14**2 / 6))
    assert b.inverse_propensity_m2 == pytest.approx(0)


def test_exclusions_training_units_and_caps_by_hand(warehouse: Warehouse) -> None:
    name = "left-out"
    trained = simple("", 0, "trained", f"{name}5", -100, variant_digest="d-b", route="hero")
    nobody = simple("", 0, "trained", f"{name}7", -100, variant_digest="another", route="hero")
    busy = [simple(name, 100 + i, "view", f"{name}8", 50 + i / 100, arm="a") for i in range(30)]
    insert(warehouse, [*small(name), trained, nobody, *busy])
    rules = Exclusion(units=(f"{name}1?", "left-[!o]*"), events_per_hour_above=20, context={"country": "DE", "device": "phone"})
    experiment = msgspec.structs.replace(BARE, exclude=rules)
    metrics = {"spend": Metric(kind="mean", event="convert", cap="p80")}
    facts = read_facts(warehouse, name, experiment, metrics)
    # By name 10 and 11; by context 1, 2, 4, 5; by rate 8; and 5 also trained the variant of b: counted once, under the first rule.
    assert facts.excluded == {"units": {"a": 1, "b": 1}, "context": {"a": 2, "b": 2}, "events_per_hour": {"a": 1, "b": 0}}
    assert facts.training_units == {} and {arm.arm: arm.units for arm in facts.arms} == {"a": 2, "b": 3}
    assert [period.units for period in facts.periods] == [{"a": 2, "b": 3}]
    # 0, 6 of a and 3, 7, 9 of b spent 0, 18, 18, 42, 9: the 80th percentile, at place 3.2 of 0, 9, 18, 18, 42.
    assert [spent(n) for n in (0, 6, 3, 7, 9)] == [0, 18, 18, 42, 9] and facts.caps == {"spend": pytest.approx(18 + 0.2 * 24)}
    assert facts.metrics["spend"]["b"].mean == pytest.approx((18 + 22.8 + 9) / 3)  # type: ignore[union-attr]
    free = read_facts(warehouse, name, BARE, metrics)
    assert free.excluded == {} and free.training_units == {"b": 1} and {arm.arm: arm.units for arm in free.arms} == {"a": 6, "b": 5}


def test_the_statement_shown_for_a_metric_says_what_the_report_does(warehouse: Warehouse) -> None:
    name = "statement"
    insert(warehouse, [event(name, n, f"s{u}") for u in range(15) for n in range(u, 160, 5)])
    experiment = msgspec.structs.replace(EXPERIMENT, exclude=Exclusion())
    facts = read_facts(warehouse, name, experiment, METRICS)
    assert set(facts.sql) == set(METRICS)
    for key, metric in METRICS.items():
        rows = {row[0]: row[1:] for row in warehouse.query(facts.sql[key])}
        for arm in "ab":
            shown = facts.metrics[key][arm]
            if metric.kind == "quantile":
                assert rows[arm] == (shown.events, pytest.approx(shown.value))  # type: ignore[union-attr]
            elif metric.inferred_as == "ratio":
                assert rows[arm] == (shown.n, pytest.approx(shown.mean / shown.denominator_mean))  # type: ignore[union-attr]
            else:
                assert rows[arm][:2] == (shown.n, pytest.approx(shown.mean))  # type: ignore[union-attr]
                assert rows[arm][2] == pytest.approx(math.sqrt(shown.m2 / (shown.n - 1)))  # type: ignore[union-attr]


def test_stored_facts_are_given_again_until_something_changes(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    name, other = "stored", "stored-elsewhere"
    insert(warehouse, small(name))
    insert(warehouse, small(other))
    metrics = {"spend": Metric(kind="mean", event="convert")}
    computed, true = 0, facts_module._compute

    def counting(*given_: Any) -> ExperimentFacts:
        nonlocal computed
        computed += 1
        return true(*given_)

    def read(**more: Any) -> tuple[int, ExperimentFacts]:
        nonlocal computed
        computed = 0
        found = read_facts(warehouse, name, more.get("experiment", BARE), more.get("metrics", metrics))
        return computed, found

    monkeypatch.setattr(facts_module, "_compute", counting)
    assert [read()[0], read()[0]] == [1, 0]
    insert(warehouse, [simple(other, 7, "convert", f"{other}1", 2000, arm="b", value=1.0)])  # long after, of another experiment
    assert read()[0] == 0
    assert read(metrics={"spend": Metric(kind="mean", event="convert", cap=2.0)})[0] == 1
    assert read(experiment=msgspec.structs.replace(BARE, breakdowns=()))[0] == 1 and read()[0] == 0
    rebuild_dirty(warehouse)
    assert read()[0] == 0 and dirty_days(warehouse) == []
    late = simple(name, 7, "convert", f"{name}1", 30, arm="b", value=5.0)
    insert(warehouse, [late])
    count, facts = read()
    assert count == 1 and facts.metrics["spend"]["b"].mean == pytest.approx((sum(spent(n) for n in range(1, 12, 2)) + 5) / 6)  # type: ignore[union-attr]
    insert(warehouse, [simple(other, 8, "convert", f"{name}3", -30, value=8.0)])  # before its exposure, elsewhere
    count, facts = read()
    assert count == 1 and facts.pre_period["b"].mean == pytest.approx((1 + 11 + 7 + 23 + 8) / 6)
    warehouse.erase(f"{name}3")
    count, facts = read()
    assert count == 1 and facts.arms[1].units == 5
    generation = begin_generation(warehouse)
    copy_unreplayed(warehouse, generation, "log", {})
    swap_generation(warehouse, generation)
    drop_old_generation(warehouse, generation)
    count, again = read()
    assert count == 1 and again.metrics == facts.metrics
    insert(warehouse, [simple("", 0, "trained", f"{name}1", 3000, variant_digest="d-b")])
    count, facts = read()
    assert count == 1 and facts.training_units == {"b": 1}
    assert warehouse.query("SELECT name FROM system.tables WHERE name LIKE 'unit_states%' OR name LIKE 'unit_daily_%'") == []


def test_rows_that_come_while_facts_are_computed_make_them_stale(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "meanwhile"
    insert(warehouse, small(name)[:-1])
    metrics, true = {"spend": Metric(kind="mean", event="convert")}, facts_module._compute
    late = simple(name, 7, "convert", f"{name}1", 30, arm="b", value=5.0)

    def slow(*given_: Any) -> ExperimentFacts:
        found = true(*given_)
        insert(warehouse, [late])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(facts_module, "_compute", slow)
        before = read_facts(warehouse, name, BARE, metrics)
    after = read_facts(warehouse, name, BARE, metrics)
    assert after.events_read == before.events_read + 1 and after == read_facts(warehouse, name, BARE, metrics)


def test_a_total_whose_square_no_double_holds_counts_as_the_largest_that_does(warehouse: Warehouse) -> None:
    """One purchase of 1e300: facts and report survive JSON, and the metric tells nothing instead of a traceback."""
    name = str(new_id())
    insert(warehouse, [simple(name, n, "exposure", f"{name}{n}", 0, arm="ab"[n % 2], propensity=0.5) for n in range(80)])
    insert(warehouse, [simple(name, n, "convert", f"{name}{n}", 1, arm="ab"[n % 2], value=1e300 if n == 2 else 1.0 + n) for n in range(80)])
    metrics = {"spend": Metric(kind="mean", event="convert", covariate_days=7)}
    report = report_now(warehouse, name, msgspec.structs.replace(BARE, breakdowns=(), strata=None, primary="spend", secondary=()), metrics)
    facts = report.sufficient_statistics.facts
    assert facts.metrics["spend"]["a"].mean == pytest.approx(1e150 / 40) and facts.metrics["spend"]["a"].m2 < sys.float_info.max
    assert msgspec.json.decode(msgspec.json.encode(facts), type=type(facts)) == facts
    assert report.metrics[0].comparisons[0].p_value > 0.2


def test_a_user_who_may_only_read_gets_the_same_report(tmp_path: Path) -> None:
    local = LocalClickHouse(tmp_path / "data").start()
    try:
        server = Warehouse.open(local.url)
        server.migrate()
        name, metrics = "read-only", {"spend": Metric(kind="mean", event="convert")}
        bare = msgspec.structs.replace(BARE, breakdowns=(), strata=None)
        insert(server, small(name))
        rebuild_dirty(server, 2)
        local.fault("error", code=497, match=r"^\s*(CREATE|ALTER|DROP|INSERT)")
        alone = read_facts(server, name, bare, metrics)
        assert server.query("SELECT count() FROM stored_facts") == [(0,)]
        local.clear_faults()
        same(msgspec.to_builtins(alone), msgspec.to_builtins(read_facts(server, name, bare, metrics)))
        assert server.query("SELECT count() FROM stored_facts") == [(1,)]
        server.close()
    finally:
        local.kill()
