"""Aligned columns and wrapped sentences for a terminal, at most 100 columns wide."""

import textwrap
from collections.abc import Sequence

WIDTH = 98


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns within the width; a column without header and content is left out."""
    keep = [i for i in range(len(header)) if header[i] or any(row[i] for row in rows)]
    widths = [max(len(line[i]) for line in (header, *rows)) for i in keep]
    # The first column gives way, never the numbers.
    spare = WIDTH - 2 - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = max(8, min(widths[0], spare))
    lines = []
    for line in (header, *rows):
        cells = [_shorten(line[i], width) for i, width in zip(keep, widths, strict=True)]
        padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(padded).rstrip())
    return lines


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def wrap(text: str, first: str, rest: str | None = None) -> list[str]:
    """Lines within the width, indented by `first` and then `rest`."""
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest, break_on_hyphens=False)
