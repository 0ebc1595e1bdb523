"""Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908): pairs of pictures of one prompt."""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class DpoTerms(NamedTuple):
    """`losses` [n], unreduced; `margin` [n]: how much more the winner gained; `winner_drift` [n]: above 0 the winner got worse."""

    losses: torch.Tensor
    margin: torch.Tensor
    winner_drift: torch.Tensor


def dpo(
    winner: torch.Tensor,
    winner_reference: torch.Tensor,
    loser: torch.Tensor,
    loser_reference: torch.Tensor,
    *,
    beta: float,
    click_noise: float = 0.0,
) -> DpoTerms:
    """Eq. 14: -log sigmoid(-(beta / 2) [(e_w - e_w,ref) - (e_l - e_l,ref)]), all errors [n], one (t, eps) per pair.

    `click_noise` is the probability that the choice was an accident: -(1 - c) log sigmoid(z) - c log sigmoid(-z).
    At model = reference every loss is log 2.
    """
    margin = (loser - loser_reference) - (winner - winner_reference)
    z = 0.5 * beta * margin
    losses = -(1.0 - click_noise) * F.logsigmoid(z) - click_noise * F.logsigmoid(-z)
    return DpoTerms(losses, margin, winner - winner_reference)
