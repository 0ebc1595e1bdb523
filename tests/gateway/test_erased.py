"""The list of erased units: durable, nameless, and about the past only."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.erased import Erased

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = bytes(range(32))


def test_it_covers_what_came_before_an_erasure_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "erased.jsonl"
    Erased(path, KEY).add("ada", AT)
    for erased in (Erased(path, KEY), Erased(path, KEY)):
        assert erased.covers("ada", AT - timedelta(days=90)) and erased.covers("ada", AT)
        assert not erased.covers("ada", AT + timedelta(microseconds=1)) and not erased.covers("bob", AT)
        erased.add("ada", AT + timedelta(hours=1))
        assert erased.covers("ada", AT + timedelta(hours=1))
        path.write_text(path.read_text().splitlines()[0] + "\n")
    assert "ada" not in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not Erased(path, bytes(32)).covers("ada", AT)


def test_a_line_cut_short_is_dropped_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "erased.jsonl"
    Erased(path, KEY).add("ada", AT)
    with path.open("ab") as file:
        file.write(b'["00')
    Erased(path, KEY).add("bob", AT)
    erased = Erased(path, KEY)
    assert erased.covers("ada", AT) and erased.covers("bob", AT)
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(ValueError, match=r"erased\.jsonl:1: .*restore the file"):
        Erased(path, KEY)
