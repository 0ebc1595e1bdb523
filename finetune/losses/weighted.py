"""Means under propensity weights."""

import torch


def self_normalised_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum(w v) / sum(w), [n] and [n] to a scalar (SNIPS, Swaminathan & Joachims 2015, eq. 7). Uniform weights give the plain mean."""
    return (weights * values).sum() / weights.sum()
