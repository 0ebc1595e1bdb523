"""Losses: pure functions on tensors, unreduced, each with its paper and equation."""
