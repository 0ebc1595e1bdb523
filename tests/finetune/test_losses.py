"""Golden values derived by hand in the comments; properties by hypothesis."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.losses.dpo import dpo
from finetune.losses.kto import kto
from finetune.losses.rwr import rwr, softmax_within
from finetune.losses.weighted import self_normalised_mean

ERRORS = torch.tensor([0.4, 1.3, 0.7, 0.05])


def test_kto_at_the_reference_is_half_of_lambda():
    liked = torch.tensor([True, False, True, False])
    terms = kto(ERRORS, ERRORS, liked, beta=317.0, weight_liked=3.0, weight_unliked=1.0)
    assert terms.losses.tolist() == [1.5, 0.5, 1.5, 0.5]
    assert terms.reference_point.item() == 0.0


def test_kto_value_by_hand():
    # g = -(0.9 - 1.0) = 0.1 and -(1.0 - 1.02) = 0.02; z0 = 0.06; beta = 10
    # liked: h = sigmoid(10 * 0.04) = 0.598688; not liked: h = sigmoid(-10 * (0.02 - 0.06)) = 0.598688
    terms = kto(torch.tensor([0.9, 1.0]), torch.tensor([1.0, 1.02]), torch.tensor([True, False]), beta=10.0)
    assert terms.reference_point.item() == pytest.approx(0.06, abs=1e-6)
    assert terms.losses.tolist() == pytest.approx([1 - 0.598688] * 2, abs=1e-5)


def test_kto_reference_point_is_never_negative():
    terms = kto(ERRORS + 0.5, ERRORS, torch.tensor([True, True, False, False]), beta=1.0)
    assert terms.reference_point.item() == 0.0


def test_kto_gradient_lowers_the_error_of_liked_and_raises_that_of_unliked():
    error = ERRORS.clone().requires_grad_()
    kto(error, ERRORS, torch.tensor([True, False, True, False]), beta=5.0).losses.sum().backward()
    assert error.grad is not None
    assert (error.grad[[0, 2]] > 0).all() and (error.grad[[1, 3]] < 0).all()


def test_dpo_at_the_reference_is_log_two():
    terms = dpo(ERRORS, ERRORS, ERRORS.flip(0), ERRORS.flip(0), beta=5000.0)
    assert terms.losses.tolist() == pytest.approx([math.log(2)] * 4)


def test_dpo_value_by_hand_and_click_noise():
    # margin = (1.1 - 1.0) - (0.9 - 1.0) = 0.2; beta / 2 * 0.2 = 1; -log sigmoid(1) = 0.313262, -log sigmoid(-1) = 1.313262
    one = torch.ones(1)
    assert dpo(one * 0.9, one, one * 1.1, one, beta=10.0).losses.item() == pytest.approx(0.313262, abs=1e-5)
    noisy = dpo(one * 0.9, one, one * 1.1, one, beta=10.0, click_noise=0.1).losses.item()
    assert noisy == pytest.approx(0.9 * 0.313262 + 0.1 * 1.313262, abs=1e-5)


def test_dpo_gradient_directions():
    winner, loser = ERRORS.clone().requires_grad_(), ERRORS.clone().requires_grad_()
    dpo(winner, ERRORS, loser, ERRORS, beta=2.0).losses.sum().backward()
    assert winner.grad is not None and loser.grad is not None
    assert (winner.grad > 0).all() and (loser.grad < 0).all()


def test_rwr_shares_by_hand():
    # group 0: rewards 1, 0 at temperature 1: e/(e+1) = 0.731059; group 1: a lone picture has share 1
    share = softmax_within(torch.tensor([1.0, 0.0, 5.0]), torch.tensor([0, 0, 1]), 1.0)
    assert share.tolist() == pytest.approx([0.731059, 0.268941, 1.0], abs=1e-5)
    losses = rwr(torch.tensor([2.0, 2.0, 2.0]), share, torch.tensor([2.0, 2.0, 1.0]))
    assert losses.tolist() == pytest.approx([2.924234, 1.075766, 2.0], abs=1e-5)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=12), st.floats(0.05, 3.0))
@settings(max_examples=60, deadline=None)
def test_rwr_shares_sum_to_one_and_follow_the_reward(rewards, temperature):
    reward = torch.tensor(rewards, dtype=torch.float64)
    share = softmax_within(reward, torch.zeros(len(rewards), dtype=torch.int64), temperature)
    assert share.sum().item() == pytest.approx(1.0)
    assert share[reward.argmax()] == share.max()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_uniform_weights_give_the_plain_mean(values, weight):
    tensor = torch.tensor(values, dtype=torch.float64)
    found = self_normalised_mean(tensor, torch.full_like(tensor, weight)).item()
    assert found == pytest.approx(sum(values) / len(values), abs=1e-9)
