"""What the configuration file of this gateway said last: with several gateways, a file speaks only where it changes.

Otherwise two gateways with different files would take turns to undo each other's experiments.
"""

import logging
from pathlib import Path

import msgspec

from analytics.experiment import Experiment
from gateway.snapshot import write_durably

log = logging.getLogger(__name__)


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """The experiments of the file when it was last adopted, and the fingerprint of the token key. `first`: never yet."""

    experiments: dict[str, Experiment] = msgspec.field(default_factory=dict)
    token_key: str = ""
    first: bool = True


class AdoptedFile:
    """A small JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Adopted:
        """What was saved; where there is nothing legible, the memory of a gateway that starts for the first time."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Adopted)
        except FileNotFoundError:
            return Adopted()
        except msgspec.DecodeError as error:
            log.warning("%s is damaged (%s): what the file says about known experiments waits until it changes", self._path, error)
            return Adopted()

    def save(self, adopted: Adopted) -> None:
        """Keep it. A disk that refuses is logged: the file is then adopted again at the next start, to the same end."""
        try:
            write_durably(self._path, msgspec.json.encode(adopted))
        except OSError as error:
            log.error("%s cannot be written (%s)", self._path, error.strerror)
