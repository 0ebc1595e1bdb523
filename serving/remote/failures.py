"""How an exchange with one worker can end badly, as the group of workers needs to tell it apart."""


class Lost(Exception):
    """The worker is gone, not ready, or answered what cannot be read: whatever was asked may be asked of another."""


class Unanswered(Lost):
    """It did not answer in time; it may only be slow."""


class Closed(Lost):
    """Its host takes no connection for it: what it is still doing for others ends by itself, well or not."""


class NotReady(Lost):
    """It answers that it cannot now: it is starting, loading or closing."""


class Refused(Exception):
    """The worker understood and will not: the values are wrong, or it does not know the variant."""
