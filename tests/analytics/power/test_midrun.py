"""What a running experiment still needs, against the written formula."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from analytics.inference import confidence_sequence
from analytics.inference.power import Spread, any_look, fixed
from analytics.power.arrivals import steady
from analytics.power.midrun import needed


@settings(max_examples=50, deadline=None)
@given(
    effect=st.floats(0.01, 10),
    se=st.floats(0.01, 10),
    pair=st.integers(10, 10**7),
    power=st.floats(0.2, 0.95),
    planned=st.sampled_from([None, 5000.0, 1e6]),
)
def test_growth_reaches_the_power(effect: float, se: float, pair: int, power: float, planned: float | None) -> None:
    """power = Φ((MDE - half)/se_f) + Φ(-(MDE + half)/se_f); half = z se_f, or that of the confidence sequence at N (1 + f)."""
    deviation = se * math.sqrt(pair)
    criterion = fixed(0.05) if planned is None else any_look(0.05, planned)

    def by_hand(growth: float) -> float:
        left = se / math.sqrt(1 + growth)
        critical = norm.ppf(0.975)
        if planned is not None:
            critical = confidence_sequence.two_sided_critical(pair * (1 + growth), 0.05, planned)  # type: ignore[arg-type]
        half = critical * left
        return float(norm.cdf((effect - half) / left) + norm.cdf(-(effect + half) / left))

    found = needed(Spread(effect, deviation, deviation), pair, criterion, power, units=2 * pair, arrivals=steady(100))
    assert found is not None and found.power_now is not None and found.power_now == pytest.approx(by_hand(0.0), abs=1e-9)
    assert found.growth is not None and found.extra_units is not None
    if found.growth == 0:
        assert by_hand(0.0) >= power - 1e-9 and found.extra_units == found.extra_days == 0
    else:
        assert by_hand(found.growth) == pytest.approx(power, abs=1e-6)
        assert found.extra_units == pytest.approx(2 * pair * found.growth, rel=1e-6, abs=1)
    assert found.mde_now == pytest.approx(se * (criterion(pair) + norm.ppf(power)), rel=1e-9)


def test_out_of_reach_and_nothing_to_tell() -> None:
    assert needed(Spread(1.0, 0.0, 0.0), 100, fixed(0.05), 0.8, units=100, arrivals=None) is None
    assert needed(Spread(1.0, 1.0, 1.0), 0, fixed(0.05), 0.8, units=0, arrivals=None) is None
    never = needed(Spread(0.0, 1.0, 1.0), 100, fixed(0.05), 0.8, units=100, arrivals=steady(5))
    assert never is not None and never.power_now is None and never.growth is None and never.extra_units is None and never.extra_days is None
    # An arm that is truly beyond its margin is not shown to keep it, however many units come.
    beyond = needed(Spread(-0.5, 1.0, 1.0), 100, fixed(0.05, one_sided=True), 0.8, units=100, arrivals=None, one_sided=True)
    assert beyond is not None and beyond.power_now is not None and beyond.power_now < 1e-9 and beyond.growth is None
    far = needed(Spread(0.001, 1.0, 1.0), 100, fixed(0.05), 0.8, units=100, arrivals=steady(5))
    assert far is not None and far.extra_units is not None and far.extra_units > 1e6 and far.extra_days is None
