"""The board of a duel: strengths of all variants, their ranks, and what does not fit a single order."""

import msgspec


class BoardReport(msgspec.Struct, frozen=True, kw_only=True):
    """To be filled."""


def board_lines(report: BoardReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    return []


def board_section(report: BoardReport | None) -> str:
    """For the page; empty without it."""
    return ""
