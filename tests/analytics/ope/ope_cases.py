"""Logs and policies for tests of `salon ope`, and the command run on them."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from salon.cli import main

ASKED = ("--action", "item", "--reward", "click", "--propensity", "chance")
PLACED = (*ASKED, "--position", "slot")


def write(path: Path, columns: dict[str, object]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path, row_group_size=700)
        return path
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def policy(path: Path, table: dict[tuple[str, ...], float], columns: tuple[str, ...] = ("item",)) -> Path:
    rows = {name: [key[i] for key in table] for i, name in enumerate(columns)}
    return write(path, {**rows, "probability": list(table.values())})


def ope(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main(["ope", *map(str, argv)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def ope_json(capsys: pytest.CaptureFixture[str], *argv: object) -> dict:
    code, out, err = ope(capsys, *argv, "--format", "json")
    assert code == 0, err
    assert "NaN" not in out and "Infinity" not in out
    return json.loads(out)


def drawn(rows: int = 3000, seed: int = 2) -> dict[str, np.ndarray]:
    """Four items in three slots, shown by fixed chances that depend on the slot; clicks by item, slot and country."""
    rng = np.random.default_rng(seed)
    slot, country = rng.integers(1, 4, rows), rng.choice(["de", "fr"], rows)
    chances = np.array([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25], [0.1, 0.1, 0.3, 0.5]])
    item = np.array([rng.choice(4, p=chances[s - 1]) for s in slot])
    rate = 0.05 + 0.08 * item + 0.05 * (slot == 1) + 0.1 * (country == "fr") * (item == 2)
    return {
        "item": item,
        "slot": slot,
        "country": country,
        "click": (rng.random(rows) < rate).astype(int),
        "chance": chances[slot - 1, item],
        "rate": rate,
    }


WANTED = {
    **{(str(i), "1"): p for i, p in enumerate((0.1, 0.2, 0.3, 0.4))},
    **{(str(i), "2"): p for i, p in enumerate((0.0, 0.5, 0.25, 0.25))},
    **{(str(i), "3"): p for i, p in enumerate((0.2, 0.2, 0.5, 0.1))},
}
