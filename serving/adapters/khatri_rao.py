"""A LoHa as the LoRA that it equals."""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


def as_lora(w1_a: Matrix, w1_b: Matrix, w2_a: Matrix, w2_b: Matrix) -> tuple[Matrix, Matrix]:
    """`down` [r1 · r2, in] and `up` [out, r1 · r2] with up · down = (w1_a w1_b) ∘ (w2_a w2_b) (Hyeon-Woo et al. 2022, FedPara, eq. 3).

    `w1_a` [out, r1], `w1_b` [r1, in], and so for w2. A Hadamard product of two products is the product of the row-wise and the
    column-wise Khatri-Rao products of their factors, exactly. Raises ValueError for shapes that do not fit each other.
    """
    for a, b in ((w1_a, w1_b), (w2_a, w2_b)):
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != len(b) or len(a) != len(w1_a) or b.shape[1] != w1_b.shape[1]:
            shapes = " ".join(str(list(each.shape)) for each in (w1_a, w1_b, w2_a, w2_b))
            raise ValueError(f"the four LoHa matrices are {shapes}, which do not fit each other")
    up = (w1_a[:, :, None] * w2_a[:, None, :]).reshape(len(w1_a), -1)
    down = (w1_b[:, None, :] * w2_b[None, :, :]).reshape(-1, w1_b.shape[1])
    return down, up
