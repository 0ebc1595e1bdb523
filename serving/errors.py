"""What goes wrong in serving, as its callers see it."""


class ModelError(ValueError):
    """A model, an adapter or a setting is missing or invalid. The text names it and the fix."""


class Busy(Exception):
    """The queue is full, measured in predicted seconds of work."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"the engine is busy; retry after {retry_after_seconds:.0f} s")
        self.retry_after_seconds = retry_after_seconds


class Late(TimeoutError):
    """The deadline passed while the image waited; no work was done for it."""


class Away(ModelError):
    """No worker of a remote engine can be reached, or none that serves the variant. It comes back by itself."""
