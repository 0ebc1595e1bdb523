"""Joint moments from rows, for tests."""

import numpy as np

from analytics.facts import Joint


def joint(*columns: np.ndarray, ratio: bool = False, ratios: tuple[bool, ...] | None = None) -> Joint:
    """Of outcome (numerator, denominator) and covariates per unit; without `ratios` every further column is a covariate."""
    rows = np.stack(columns).astype(float)
    apart = rows - rows.mean(axis=1, keepdims=True)
    ratios = (False,) * (len(columns) - 1 - ratio) if ratios is None else ratios
    return Joint(
        n=rows.shape[1],
        means=tuple(map(float, rows.mean(axis=1))),
        products=tuple(tuple(map(float, row)) for row in apart @ apart.T),
        ratio=ratio,
        covariates=tuple(f"x{i}" for i in range(len(ratios))),
        ratios=ratios,
    )
