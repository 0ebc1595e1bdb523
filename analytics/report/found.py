"""What was found when two arms were compared."""

import msgspec

from analytics.inference.contrast import Contrast


class Found(msgspec.Struct, frozen=True):
    """The comparison to test (None: it cannot be), how it was made or why not, and the share of the variance that covariates took."""

    contrast: Contrast | None
    method: str
    variance_reduction: float | None = None
