"""One line of `salon doctor`: a look at one part, bounded in time, told as well or wrong."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

import msgspec
from kafka.errors import KafkaError

FAILURES = (ValueError, OSError, LookupError, ImportError, KafkaError)


class Wrong(Exception):
    """A part answers, and is not well; the text says what, why and what to do."""


class Finding(msgspec.Struct, frozen=True):
    """One line: the part, whether it is well, and what was seen."""

    part: str
    ok: bool
    text: str


def check(part: str, look: Callable[[], str], seconds: float | None = None) -> Finding:
    """The finding of a look. `seconds` bounds it: it then runs in a thread of its own, which is left behind when it does not end."""
    try:
        return Finding(part, True, look() if seconds is None else _bounded(part, look, seconds))
    except (*FAILURES, Wrong) as error:
        return Finding(part, False, str(error) or type(error).__name__)


def _bounded(part: str, look: Callable[[], str], seconds: float) -> str:
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(look())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"salon-doctor-{part}", daemon=True).start()
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        if future.done():
            raise
        raise Wrong(f"no answer within {seconds:.0f} s: it is overloaded, or there is too much to look at; look again later") from None


def for_how_long(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
