"""The same job through Salon's analysis and through its peers: 3 arms, 1 M units, 10 metrics with covariates from one Parquet file.

python benchmarks/statistics/peers.py [--units N] [--runs N] [--keep FILE]

Eight means, each with its own covariate, and two ratios with their own past: 24 columns of floats. Every way runs in a process of
its own, alone, with one thread for linear algebra; CPU seconds (all threads) of the best of the runs after the imports, of the
first run, and how much the peak memory of the process grew beyond what it had after the imports. Ratios are to Salon. The
differences of the means have to agree to 1e-6 of their standard errors: all did the same work. Ends with 1 where they do not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

ARMS = ("a", "b", "c")
MEANS = [(f"mean{i}", f"mean{i}_before") for i in range(8)]
RATIOS = [tuple(f"{part}{i}" for part in ("top", "below", "top_before", "below_before")) for i in range(2)]
TARGET_CPU_S, TARGET_MB = 0.3, 100.0
Differences = dict[str, tuple[float, float]]


def table(path: Path, units: int) -> None:
    """Draws the experiment: correlated with its past, no effect."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    rng = np.random.default_rng(1)
    columns: dict[str, object] = {"arm": np.array(ARMS)[rng.integers(0, len(ARMS), units)]}
    for value, covariate in MEANS:
        columns[covariate] = rng.gamma(2.0, 5.0, units)
        columns[value] = columns[covariate] * 0.7 + rng.normal(20, 4, units)
    for top, below, top_before, below_before in RATIOS:
        columns[below_before] = rng.poisson(9, units) + 1.0
        columns[below] = columns[below_before] + rng.poisson(2, units)
        columns[top_before] = columns[below_before] * rng.beta(2, 8, units)
        columns[top] = columns[top_before] + rng.gamma(1.0, 0.5, units)
    pa.parquet.write_table(pa.table(columns), path)


def salon(path: Path) -> Callable[[], Differences]:
    from analytics.analyze.analysis import analyze
    from analytics.analyze.asked import Asked
    from analytics.analyze.covariate_option import CovariateOption
    from analytics.analyze.metric_option import MetricOption
    from analytics.analyze.table import Table

    metrics = [MetricOption(column=value, kind="mean") for value, _ in MEANS]
    metrics += [MetricOption(column=top, kind="ratio", denominator=below) for top, below, _, _ in RATIOS]
    covariates = [CovariateOption(column=covariate, metric=value) for value, covariate in MEANS]
    covariates += [CovariateOption(column=b, denominator=d, metric=f"{t}/{n}") for t, n, b, d in RATIOS]

    def work() -> Differences:
        found = analyze(Table(path), Asked(arm="arm", control="a", metrics=metrics, covariates=covariates))
        return {
            f"{metric.metric} {c.arm}": (c.difference.value or 0.0, c.difference.se or 0.0)
            for metric in found.metrics
            for c in metric.comparisons
        }

    return work


def tea_tasting(path: Path, *, in_memory: bool = False) -> Callable[[], Differences]:
    import duckdb
    import tea_tasting as tt

    connection = duckdb.connect()
    data = connection.read_parquet(str(path))
    if in_memory:
        connection.execute(f"CREATE TABLE units AS FROM read_parquet('{path}')")
        data = connection.table("units")
    metrics = {value: tt.Mean(value, covariate) for value, covariate in MEANS}
    metrics |= {f"{t}/{n}": tt.RatioOfMeans(t, n, b, d) for t, n, b, d in RATIOS}
    experiment = tt.Experiment(metrics, "arm")

    def work() -> Differences:
        results = experiment.analyze(data, "a", all_variants=True)
        return {
            f"{name} {arms[1]}": (float(one.effect_size), 0.0)
            for arms, result in results.items()
            if arms[0] == "a"
            for name, one in result.items()
        }

    return work


def tea_tasting_in_memory(path: Path) -> Callable[[], Differences]:
    return tea_tasting(path, in_memory=True)


def duckdb_sums(path: Path) -> Callable[[], Differences]:
    """The sums alone, in one query, without any statistics: what reading and adding up costs an engine."""
    import duckdb

    blocks = [list(pair) for pair in MEANS] + [list(four) for four in RATIOS]
    terms = ["count(*)"]
    for block in blocks:
        terms += [f"sum({column})" for column in block]
        terms += [f"sum({a} * {b})" for i, a in enumerate(block) for b in block[i:]]
    query = f"SELECT arm, {', '.join(terms)} FROM read_parquet('{path}') GROUP BY arm"

    def work() -> Differences:
        duckdb.connect().execute(query).fetchall()
        return {}

    return work


def statsmodels(path: Path) -> Callable[[], Differences]:
    """The eight means only, each by the regression of its values on arm and covariate with HC2; its columns are in memory."""
    import numpy as np
    import pyarrow.parquet
    import statsmodels.api as sm

    names = [name for pair in MEANS for name in pair]
    data = pyarrow.parquet.read_table(path, columns=["arm", *names])
    arm = np.array(data.column("arm").to_pylist())
    columns = {name: data.column(name).to_numpy() for name in names}

    def work() -> Differences:
        for value, covariate in MEANS:
            for treated in ARMS[1:]:
                here = (arm == "a") | (arm == treated)
                z, x = (arm[here] == treated).astype(float), columns[covariate][here]
                x = x - x.mean()
                sm.OLS(columns[value][here], np.column_stack([np.ones(len(z)), z, x, x * z])).fit(cov_type="HC2")
        return {}

    return work


WAYS: dict[str, tuple[str, Callable[[Path], Callable[[], Differences]]]] = {
    "salon": ("salon analyze's engine, Parquet to report", salon),
    "duckdb": ("DuckDB, sums only, no statistics, Parquet", duckdb_sums),
    "tea": ("tea-tasting on DuckDB, Parquet", tea_tasting),
    "tea-memory": ("tea-tasting on DuckDB, table in memory", tea_tasting_in_memory),
    "statsmodels": ("statsmodels OLS HC2, 8 means only, arrays in memory", statsmodels),
}


def one(way: str, path: Path, runs: int) -> dict[str, object]:
    """In this process: prepare, then run; CPU seconds per run and growth of the peak in MB."""
    work = WAYS[way][1](path)
    before = peak_mb()
    seconds = []
    found: Differences = {}
    for _ in range(runs):
        start = time.process_time()
        found = work()
        seconds.append(time.process_time() - start)
    peak = peak_mb()
    return {"cpu_s": min(seconds), "first_s": seconds[0], "mb": peak - before, "peak_mb": peak, "differences": found}


def peak_mb() -> float:
    """Of this process since it was started (`getrusage` counts what its parent had, too)."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def measured(way: str, path: Path, runs: int) -> dict[str, object]:
    """The same in a process of its own."""
    # Threads of BLAS would count twice without being faster on matrices this small.
    environ = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--only", way, "--table", str(path), "--runs", str(runs)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} ended with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def agree(ours: Differences, theirs: Differences) -> bool:
    """Every difference of means within 1e-6 standard errors (ratios are adjusted by another theta there)."""
    shared = [name for name in theirs if "/" not in name]
    return bool(shared) and all(abs(theirs[name][0] - ours[name][0]) <= 1e-6 * ours[name][1] for name in shared)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5, help="the best counts (statsmodels: of 2)")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(one(arguments.only, arguments.table, arguments.runs)))
        return 0
    from machine import machine

    print(machine("salon", "numpy", "pyarrow", "tea-tasting", "narwhals", "duckdb", "statsmodels"))
    print(
        f"{len(ARMS)} arms, {arguments.units:,} units, {len(MEANS)} means and {len(RATIOS)} ratios with covariates, 24 columns of floats\n"
    )
    print(f"{'':54}{'CPU s':>8}{'first':>8}{'MB more':>9}{'peak MB':>9}{'x CPU':>8}{'x MB':>7}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "units.parquet"
        table(path, arguments.units)
        base: dict[str, object] = {}
        ok = True
        for way, (words, _) in WAYS.items():
            result = measured(way, path, min(2, arguments.runs) if way == "statsmodels" else arguments.runs)
            base = base or result
            cpu, first, mb, peak = (float(str(result[key])) for key in ("cpu_s", "first_s", "mb", "peak_mb"))
            times, more = cpu / float(str(base["cpu_s"])), mb / max(1.0, float(str(base["mb"])))
            print(f"{words:54}{cpu:8.3f}{first:8.3f}{mb:9.0f}{peak:9.0f}{times:8.2f}{more:7.2f}", flush=True)
            if way.startswith("tea") and not agree(base["differences"], result["differences"]):  # type: ignore[arg-type]
                print(f"  {way}: its differences are NOT those of salon")
                ok = False
    cpu, mb = float(str(base["cpu_s"])), float(str(base["mb"]))
    within = cpu <= TARGET_CPU_S and mb <= TARGET_MB
    print(
        f"\ntarget from a file: {TARGET_CPU_S} CPU-s and {TARGET_MB:.0f} MB: {'met' if within else 'MISSED'} ({cpu:.3f} CPU-s, {mb:.0f} MB)"
    )
    print("the differences of the means agree" if ok else "the differences of the means do NOT agree")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
