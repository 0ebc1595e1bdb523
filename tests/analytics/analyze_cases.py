"""Tables for tests of `salon analyze`, and the command run on them."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from salon.cli import main


def write(path: Path, columns: dict[str, object], **options: object) -> str:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(columns), path, **options)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(["analyze", *argv])
    out = capsys.readouterr()
    return code, out.out, out.err


def run_json(capsys, *argv: str) -> dict:
    code, out, err = run(capsys, *argv, "--format", "json")
    assert code == 0, err
    assert "NaN" not in out and "Infinity" not in out
    return json.loads(out)


def compared(report: dict, metric: int = 0, comparison: int = 0) -> dict:
    return report["metrics"][metric]["comparisons"][comparison]


def units(n: int = 2000, seed: int = 3) -> dict[str, np.ndarray]:
    """One row per unit: a small effect on `spent`, which `before` and `age` foretell in part; clicks of views with a past."""
    rng = np.random.default_rng(seed)
    arm = rng.permutation(np.repeat(["base", "vivid"], [n // 2, n - n // 2]))
    treated = arm == "vivid"
    before, age = rng.gamma(2, 5, n), rng.normal(40, 10, n)
    country = rng.choice(["de", "fr", "us"], n, p=[0.5, 0.3, 0.2])
    spent = before * (1 + 0.1 * treated) + 0.2 * age + (country == "us") * 6 + rng.gamma(2, 4, n) + treated * 0.2
    views = rng.poisson(8, n) + 1
    views_before = np.maximum(1, views + rng.integers(-2, 3, n))
    taste = rng.beta(2, 8, n)
    return {
        "arm": arm,
        "spent": spent,
        "before": before,
        "age": age,
        "country": country,
        "liked": (rng.random(n) < 0.12 + 0.02 * treated).astype(int),
        "views": views,
        "clicks": rng.binomial(views, taste),
        "views_before": views_before,
        "clicks_before": rng.binomial(views_before, taste),
    }
