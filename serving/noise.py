"""The initial noise of a seed."""

import numpy as np
from numpy.typing import NDArray


def initial_noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal numbers by numpy's Philox 4x64 counter generator keyed by `seed` (its low 64 bits): the same on every machine."""
    return np.random.Generator(np.random.Philox(key=seed & (2**64 - 1))).standard_normal(shape, np.float32)
