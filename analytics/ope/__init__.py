"""Off-policy estimates: what another policy would have earned, from what one logged with its propensities."""
