"""Reward-weighted regression: the baseline that every other loss must beat (Peters & Schaal 2007; Lee et al. 2023, arXiv 2302.12192)."""

import torch


def softmax_within(reward: torch.Tensor, group: torch.Tensor, temperature: float) -> torch.Tensor:
    """softmax(reward / temperature) among the pictures of one group (a prompt): [n], int64 [n] to [n]; each group sums to 1."""
    groups = int(group.max()) + 1
    top = torch.full((groups,), -torch.inf, dtype=reward.dtype).scatter_reduce(0, group, reward, "amax")
    raised = torch.exp((reward - top[group]) / temperature)
    total = torch.zeros(groups, dtype=reward.dtype).index_add(0, group, raised)
    return raised / total[group]


def rwr(error: torch.Tensor, share: torch.Tensor, group_size: torch.Tensor) -> torch.Tensor:
    """Unreduced [n]: share_i * size of its group * error_i, so that a group of equal rewards is plain regression."""
    return share * group_size * error
