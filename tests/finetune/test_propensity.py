import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.propensity import arm_weights, class_weights, effective_size, examination, examined_without_like, example_weights


def test_examination_is_found_from_random_positions():
    rng = np.random.default_rng(5)
    n, true = 40_000, np.array([1.0, 0.7, 0.5, 0.3])
    position = rng.integers(0, 4, n)
    appeal = rng.choice([0.1, 0.5], n)
    liked = rng.random(n) < true[position] * appeal
    found = examination(np.full(n, 4), position, liked)
    assert found.of(np.full(4, 4), np.arange(4)) == pytest.approx(true, abs=0.04)
    assert found.appeal == pytest.approx(0.3, abs=0.02)


def test_rare_places_are_shrunk_and_clipped():
    position = np.array([0] * 400 + [1])
    liked = np.array([True] * 200 + [False] * 201)
    found = examination(np.full(401, 2), position, liked)
    assert found.by_place["2:1"] > 0.9
    never = examination(np.full(4000, 2), np.arange(4000) % 2, np.arange(4000) % 2 == 0)
    assert never.by_place["2:1"] == 0.05


def test_examined_without_like_by_hand():
    # theta 0.5, appeal 0.4: 0.5 * 0.6 / (1 - 0.2) = 0.375
    assert examined_without_like(np.array([0.5, 1.0]), 0.4) == pytest.approx([0.375, 1.0])
    assert examined_without_like(np.array([1.0]), 1.0) == pytest.approx([0.0])


def test_example_weights_by_hand():
    # liked at theta 0.5, p 0.5: 2 * 2 = 4; not liked at theta 0.5, p 0.05 (clip 10): 10 * 0.375 = 3.75; mean 3.875
    weights = example_weights(np.array([True, False]), np.array([0.5, 0.5]), np.array([0.5, 0.05]), 0.4)
    assert weights == pytest.approx([4 / 3.875, 3.75 / 3.875])


@given(st.lists(st.tuples(st.booleans(), st.floats(0.05, 1.0), st.floats(0.01, 1.0)), min_size=2, max_size=50), st.floats(0.0, 0.95))
@settings(max_examples=80, deadline=None)
def test_weights_have_mean_one_and_likes_count_more_where_few_look(rows, appeal):
    liked, theta, propensity = (np.array(column) for column in zip(*rows, strict=True))
    weights = example_weights(liked.astype(bool), theta, propensity, appeal)
    assert weights.mean() == pytest.approx(1.0)
    assert (weights >= 0).all() and effective_size(weights) <= len(rows) + 1e-6


def test_bad_propensities_are_refused():
    for bad in (0.0, 1.2, float("nan")):
        with pytest.raises(ValueError, match="propensity"):
            arm_weights(np.array([0.5, bad]))


@given(st.floats(0.5, 1e4), st.floats(0.5, 1e4), st.floats(1.0, 4 / 3))
def test_class_weights_keep_the_rule(n_liked, n_unliked, ratio):
    liked, unliked = class_weights(n_liked, n_unliked, ratio)
    assert liked * n_liked / (unliked * n_unliked) == pytest.approx(ratio)
    assert min(liked, unliked) == 1.0


def test_one_kind_alone_is_refused():
    with pytest.raises(ValueError, match="both kinds"):
        class_weights(10.0, 0.0)
