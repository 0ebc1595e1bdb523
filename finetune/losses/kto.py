"""Diffusion-KTO (Li et al. 2024, arXiv 2404.04465): like or no like per picture, no pairs needed."""

from typing import NamedTuple

import torch


class KtoTerms(NamedTuple):
    """`losses` [n], unreduced; `log_ratio` [n], implicit log-ratio per latent dimension; `reference_point` []."""

    losses: torch.Tensor
    log_ratio: torch.Tensor
    reference_point: torch.Tensor


def kto(
    error: torch.Tensor,
    error_reference: torch.Tensor,
    liked: torch.Tensor,
    *,
    beta: float,
    weight_liked: float = 1.0,
    weight_unliked: float = 1.0,
) -> KtoTerms:
    """The utility loss of eq. 9 with the sigmoid utility: lambda_y (1 - sigmoid(s beta (g - z0))).

    `error` and `error_reference` [n] are the mean squared errors of model and reference at the same (t, eps), so
    g = -(error - error_reference); s is +1 where `liked` (bool [n]) and -1 elsewhere; z0 = max(0, batch mean of g),
    without gradient. `beta` is for means over latent dimensions (beta_sum times their number). At model = reference every
    loss is lambda / 2.
    """
    log_ratio = -(error - error_reference)
    reference_point = log_ratio.detach().mean().clamp(min=0.0)
    sign = torch.where(liked, 1.0, -1.0)
    weight = torch.where(liked, weight_liked, weight_unliked)
    utility = torch.sigmoid(sign * beta * (log_ratio - reference_point))
    return KtoTerms(weight * (1.0 - utility), log_ratio, reference_point)
