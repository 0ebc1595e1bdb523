"""The report of an experiment: built once, read as JSON, text or a page. Called, it reads one: `analytics.report(name)`."""

import sys
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analytics.report.notebook import AnalystReport


class _Room(ModuleType):
    """This folder as a function too: its name is the one that analysts call."""

    def __call__(
        self, name: str, config: str | Path | None = None, as_of: str | datetime | None = None, *, flagged: bool = False
    ) -> "AnalystReport":
        """See `analytics.report.notebook.read`."""
        from analytics.report.notebook import read

        return read(name, config, as_of, flagged=flagged)


sys.modules[__name__].__class__ = _Room
