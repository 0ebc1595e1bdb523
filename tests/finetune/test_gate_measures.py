"""Measures against hand values and against scipy / brute force; each check is shown to pass and to fail."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from finetune.gate import checks, measures
from finetune.gate.checks import Limits, Views
from finetune.reward import RewardModel, fit, fold_of


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def views(features, rgb=None, latent=None):
    shape = features.shape[:2]
    rgb = np.full((*shape, 4, 4, 3), 128, np.uint8) if rgb is None else rgb
    return Views(rgb, features, features, np.zeros((*shape, 2)) if latent is None else latent)


def test_retrieval_and_alignment_by_hand():
    captions = np.eye(3)
    pictures = unit(np.array([[[1.0, 0.1, 0.0], [0.2, 1.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 0.9, 0.1]]]))
    assert measures.retrieval_hits(pictures, captions, np.arange(2)).tolist() == [[True, False], [True, True]]
    assert measures.alignment(pictures, captions, np.arange(2))[1, 0] == pytest.approx(1.0)


def test_a_caption_of_the_same_meaning_counts_as_the_own():
    captions = unit(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    picture = unit(np.array([[[1.0, 0.1]]]))
    assert measures.retrieval_hits(picture, captions, np.array([0])).all()


def test_kernel_distance_against_loops():
    rng = np.random.default_rng(0)
    a, b = unit(rng.normal(size=(5, 3))), unit(rng.normal(size=(6, 3)))

    def k(x, y):
        return (float(x @ y) + 1) ** 3

    within_a = np.mean([k(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(6) for j in range(6) if i != j])
    across = np.mean([k(x, y) for x in a for y in b])
    squared, share = measures.kernel_distance(a, b)
    assert squared == pytest.approx(within_a + within_b - 2 * across)
    assert share == pytest.approx(squared / (8 - within_b))


def test_kernel_distance_is_unbiased_for_one_distribution():
    rng = np.random.default_rng(1)
    found = [measures.kernel_distance(unit(rng.normal(size=(30, 8))), unit(rng.normal(size=(30, 8))))[0] for _ in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(300)


def test_pictures_of_the_same_seeds_are_not_closer_than_nothing():
    a = unit(np.random.default_rng(1).normal(size=(12, 8)))
    assert measures.kernel_distance(a, a, paired=True)[0] == pytest.approx(0.0, abs=1e-12)
    assert measures.kernel_distance(a, a)[0] < -0.1


def test_pairwise_distance_by_hand():
    pictures = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert measures.pairwise_distance(pictures).tolist() == [1.0, 0.0]


def test_total_variation_and_chance():
    a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    assert measures.total_variation(a, b, 3) == pytest.approx(0.25)  # (|.5-.25| + 0 + .25) / 2
    rng = np.random.default_rng(2)
    x, y, z = rng.integers(0, 4, 400), rng.integers(0, 4, 400), np.zeros(400, int)
    assert measures.total_variation(x, y, 4) < measures.chance_variation(x, y, 4, resamples=400, seed=0, level=0.99)
    assert measures.total_variation(x, z, 4) > measures.chance_variation(x, z, 4, resamples=400, seed=0)


@given(st.integers(0, 60), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_wilson_agrees_with_statsmodels(successes, trials):
    successes = min(successes, trials)
    assert measures.wilson(successes, trials) == pytest.approx(proportion_confint(successes, trials, method="wilson"), abs=1e-6)


def test_bootstrap_covers_the_mean():
    rng = np.random.default_rng(3)
    low, high = measures.bootstrap_interval(rng.normal(2.0, 1.0, 100), resamples=4000, seed=0)
    assert 1.6 < low < 2.0 < high < 2.4 and high - low == pytest.approx(4 * 0.1, abs=0.1)


def likes_of_the_first_axis(n=600, seed=0):
    rng = np.random.default_rng(seed)
    features = unit(rng.normal(size=(n, 6)))
    prompt = rng.integers(0, 30, n)
    popular = rng.random(30) * 0.5
    liked = rng.random(n) < popular[prompt] + 0.4 * (features[:, 0] > 0)
    return features, prompt, liked, np.ones(n), [f"u{i}" for i in rng.integers(0, 80, n)]


def test_reward_finds_the_axis_and_says_how_much_it_knows():
    model = fit(*likes_of_the_first_axis())
    assert model.held_out > 0.2
    up, down = np.eye(6)[0][None], -np.eye(6)[0][None]
    assert model.pessimistic((model.each(up) - model.each(down))[:, 0]) > 0.1
    assert np.abs(model.members.mean(0)).argmax() == 0


def test_reward_of_noise_knows_nothing():
    features, prompt, liked, weight, units = likes_of_the_first_axis()
    model = fit(features, prompt, np.random.default_rng(9).permutation(liked), weight, units)
    assert model.held_out < 0.12


def test_reward_refuses_what_it_cannot_fit():
    features, prompt, liked, weight, _ = likes_of_the_first_axis(50)
    with pytest.raises(ValueError, match="2 units"):
        fit(features, prompt, liked, weight, ["a", "b"] * 25)
    with pytest.raises(ValueError, match="same answer"):
        fit(features, prompt, liked | True, weight, [f"u{i}" for i in range(50)])


def test_units_stay_in_one_fold():
    assert len({fold_of("someone", 5, 1) for _ in range(5)}) == 1
    assert {fold_of(f"u{i}", 5, 1) for i in range(200)} == {0, 1, 2, 3, 4}


FIRST_AXIS = RewardModel(members=np.eye(6)[[0, 0, 0]], centre=np.zeros(6), scale=np.ones(6), kappa=1.0, penalty=1.0, held_out=0.5)


def test_reward_check_passes_and_fails():
    rng = np.random.default_rng(4)
    base = rng.normal(0, 0.1, (24, 2, 6))
    better = base.copy()
    better[..., 0] += rng.normal(0.05, 0.02, (24, 2))
    assert checks.reward(views(better), views(base), FIRST_AXIS, Limits(), 0).ok
    same = checks.reward(views(base + rng.normal(0, 0.02, base.shape)), views(base), FIRST_AXIS, Limits(), 0)
    worse = checks.reward(views(base), views(better), FIRST_AXIS, Limits(), 0)
    assert not worse.ok and worse.high < 0 and not same.ok and same.low < same.value < same.high
    split = RewardModel(members=np.eye(6)[[0, 0, 1]], centre=np.zeros(6), scale=np.ones(6), kappa=2.0, penalty=1.0, held_out=0.5)
    assert not checks.reward(views(better), views(base), split, Limits(), 0).ok


def test_guards_pass_for_the_champion_and_fail_for_a_broken_model():
    rng = np.random.default_rng(5)
    captions = unit(rng.normal(size=(20, 6)))
    good = unit(captions[:, None] + rng.normal(0, 0.2, (20, 3, 6)))
    fresh = unit(good + rng.normal(0, 0.05, (20, 3, 6)))
    collapsed = np.broadcast_to(unit(np.ones(6)), (20, 3, 6)).copy()
    own, limits = np.arange(20), Limits()
    for candidate, expected in ((fresh, True), (collapsed, False)):
        found = [
            *checks.alignment(views(candidate), views(good), captions, own, limits, 0),
            checks.distance(views(candidate), views(good), limits),
            checks.diversity(views(candidate), views(good), limits),
        ]
        assert [c.ok for c in found] == [expected] * 4, found


def test_drift_of_colour_and_latents():
    rng = np.random.default_rng(6)
    features = unit(rng.normal(size=(12, 2, 6)))
    grey = rng.integers(90, 160, (12, 2, 4, 4, 3)).astype(np.uint8)
    red = grey.copy()
    red[..., 1:] = 0
    still, moved = rng.normal(0, 1, (12, 2, 2)), rng.normal(0, 1, (12, 2, 2)) + np.array([0.0, 5.0])
    base = views(features, grey, still)
    assert all(c.ok for c in checks.drift(base, base, Limits()))
    found = checks.drift(views(features, red, moved), base, Limits())
    assert [c.ok for c in found] == [False, False] and "channel 1" in found[1].explanation


def test_bias_check_passes_for_the_same_mix_and_fails_for_another():
    rng = np.random.default_rng(7)
    classes = ["a", "b", "c"]
    champion, other = rng.choice(3, 120, p=[0.6, 0.3, 0.1]), rng.choice(3, 120, p=[0.6, 0.3, 0.1])
    assert checks.bias(other, champion, classes, Limits(), 0).ok
    moved = checks.bias(np.zeros(120, int), champion, classes, Limits(), 0)
    assert not moved.ok and "moved most: a, candidate 1.00" in moved.explanation
