"""The offline gate: what a candidate must show before people see it."""
