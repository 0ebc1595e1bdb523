"""The simulations of benchmarks/statistics, small: today's statistics pass, and statistics with a known fault do not."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks" / "statistics"
PARTS = (
    "claims",
    "simulation",
    "sums",
    "audience",
    "cases",
    "fixed_horizon",
    "streams",
    "reading",
    "hourly",
    "guardrails",
    "sample_ratios",
)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """The modules by name; imported anew, as other benchmarks may have modules of the same names."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for part in PARTS:
        monkeypatch.delitem(sys.modules, part, raising=False)
    found = {part: __import__(part) for part in PARTS}
    yield SimpleNamespace(**found)
    for part in PARTS:
        sys.modules.pop(part, None)


def outcome(scripts, part: str, word: str, runs: int):
    (chosen,) = [one for one in getattr(scripts, part).simulations() if one.name == word]
    return scripts.simulation.measured(chosen, runs, seed=3)


@pytest.mark.parametrize(
    ("part", "word", "runs"),
    [
        ("fixed_horizon", "mean, Welch, 150 and 100 units", 400),
        ("fixed_horizon", "CUPED, ratio with its own past as covariate, 400 units an arm", 200),
        ("fixed_horizon", "ramp 10 → 30 → 50 % while the rate falls from 30 to 10 %", 150),
        ("hourly", "hourly: revenue, skewness above 10", 32),
        ("guardrails", "guardrail: seconds waited, harm exactly at the margin", 8),
        ("sample_ratios", "sample ratio: healthy", 800),
    ],
)
def test_the_promises_hold_in_small(scripts, part: str, word: str, runs: int) -> None:
    found = outcome(scripts, part, word, runs)
    assert not found.problems
    assert [verdict.line() for verdict in found.verdicts if not verdict.ok] == []


def test_intervals_that_are_too_short_are_seen(scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    from analytics.inference import mean

    honest = mean.mean_variance
    monkeypatch.setattr(mean, "mean_variance", lambda moments: honest(moments) / 2)
    found = outcome(scripts, "fixed_horizon", "mean, Welch, 150 and 100 units", 400)
    assert [verdict.ok for verdict in found.verdicts] == [False, False, False]


def test_units_of_all_weights_in_one_heap_are_seen(scripts) -> None:
    """A ramp whose periods the report is not told must fail the claim that the ramp passes."""
    (honest,) = [one for one in scripts.fixed_horizon.simulations() if one.name.startswith("ramp")]
    values = scripts.fixed_horizon.measure(scripts.cases.ramp(told=False))(scripts.simulation.np.random.default_rng(1), 60)
    assert not honest.claims[0].judge(values).ok


def test_reading_the_p_for_one_look_every_hour_is_seen(scripts) -> None:
    """What the fixed-horizon p-value does under peeking fails the claim that the always-valid interval passes."""
    found = outcome(scripts, "hourly", "hourly: revenue, skewness above 10", 32)
    peeked = [v.estimate for v in found.verdicts if v.claim.key == "fixed p"]
    claim = next(v.claim for v in found.verdicts if v.claim.key == "outside")
    share = round(peeked[0] * 32)
    assert not claim.judge({"outside": [1.0] * share + [0.0] * (32 - share)}).ok


def test_a_line_that_measured_nothing_does_not_pass(scripts) -> None:
    (chosen,) = [one for one in scripts.fixed_horizon.simulations() if one.name.startswith("CUPED, mean")]
    silent = scripts.simulation.judged(chosen, [({"difference": [1.0], "lift": [1.0], "false": [], "reduced": []}, 0.0)])
    assert not silent.ok and len(silent.problems) == 2


def test_figures_do_not_depend_on_the_number_of_processes(scripts) -> None:
    (chosen,) = [one for one in scripts.fixed_horizon.simulations() if one.name == "mean, lift by Fieller"]
    alone = scripts.simulation.measured(chosen, chosen.quick, seed=5)
    (shared,) = scripts.simulation.all_measured([chosen], True, 5, 2)
    assert [v.estimate for v in alone.verdicts] == [v.estimate for v in shared.verdicts]
