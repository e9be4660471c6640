# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate every row of a comparison, with several seeds, and write one table.

    python scripts/compare_rows.py scripts/tables/pa_seg_3d_msd_hippocampus.json --dataset_dir data/msd_hippocampus

A row that is finished is not run again, so an interrupted comparison goes on where it stopped. The JSON file names the
bundle, the configuration files that all rows and each row overlay (``configs``), those that only training puts after
them (``training_configs``), the values they set (``values``), the finished row whose weights they start from
(``after``: configuration key to row), and the columns (``metrics``: name to title and digits; a metric is the mean over
the test cases, or of all of them together where the evaluation's ``report.json`` lists it as pooled).

A method of several stages has ``stages`` beside its rows: runs that are not evaluated, each with its verb (``run``),
all its ``configs``, and ``values`` in which ``{folder}`` is where the stage may write. A row or another stage takes
what it wrote by ``after``: configuration key to the stage's name and the path in its folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from monai_ext.handlers import run_info

METRICS = {"val_mean_dice": ["Dice", 3], "val_assd": ["ASSD (mm)", 2]}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path, help="the JSON file that lists the rows")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the data set and its datalist.json")
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"), help="folder of the runs and the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--rows", nargs="+", help="only these rows (and what the table file lists before them is kept)")
    options = parser.parse_args(arguments)
    table = read_table(options.table)
    wanted = [name for name in table["rows"] if options.rows is None or name in options.rows]
    with ThreadPoolExecutor(options.processes) as pool:
        for wave in waves_of(table, wanted):
            jobs = [(name, seed) for seed in options.seeds for name in wave]
            list(pool.map(lambda job: run_one(table, *job, options=options), jobs))
    write_table(table, options)


def read_table(path: Path) -> dict[str, Any]:
    """The JSON file of a comparison; what all rows start from (its own ``after``) is then said in each row."""
    table = json.loads(path.read_text(encoding="utf8"))
    common = table.pop("after", {})
    table["rows"] = {name: row | {"after": common | row.get("after", {})} for name, row in table["rows"].items()}
    return table


def waves_of(table: dict[str, Any], wanted: Sequence[str]) -> list[list[str]]:
    """Rows and the stages that they need, those first whose results others begin with.

    Raises:
        SystemExit: a row or stage begins with one that is not in the table.
    """
    runs = {**table.get("stages", {}), **table["rows"]}
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in runs:
            raise SystemExit(f"{name}: no such row or stage in the table.")
        if name not in depths:
            sources = [source for source, _ in sources_of(runs[name]).values()]
            depths[name] = 1 + max(map(depth, sources), default=-1)
        return depths[name]

    for name in wanted:
        depth(name)
    return [[n for n in runs if depths.get(n) == level] for level in range(max(depths.values(), default=-1) + 1)]


def sources_of(row: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Configuration key to the row or stage that it begins with and the path in that one's folder."""
    after = row.get("after", {}).items()
    return {key: (source, "models") if isinstance(source, str) else tuple(source) for key, source in after}


def run_one(table: dict[str, Any], name: str, seed: int, *, options: argparse.Namespace) -> None:
    """Run a row or a stage with one seed, unless its result is there."""
    (run_row if name in table["rows"] else run_stage)(table, name, seed, options=options)


def run_stage(table: dict[str, Any], name: str, seed: int, *, options: argparse.Namespace) -> None:
    """Run a stage with one seed, unless its result is there."""
    stage, folder = table["stages"][name], folder_of(name, seed, options.out)
    if (folder / "result.json").exists():
        return
    values = {"bundle_root": _bundle(table), "dataset_dir": options.dataset_dir.resolve(), "seed": seed}
    values |= {key: str(value).format(folder=folder) for key, value in stage.get("values", {}).items()}
    values |= {key: folder_of(source, seed, options.out) / path for key, (source, path) in sources_of(stage).items()}
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    _bundle_run(stage["run"], _bundle(table), stage["configs"], values, folder / "stage.log", options.threads)
    facts = run_info(seed) | {"threads_of_run": options.threads, "training_seconds": round(time.monotonic() - start)}
    _write_result(folder, {"run": facts | {"configs": stage["configs"]}})
    print(f"{name}, seed {seed}: {facts['training_seconds']} s", flush=True)


def folder_of(name: str, seed: int, out: Path) -> Path:
    """Where a row's run with a seed is written."""
    slug = "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")
    return (out / slug / f"seed{seed}").resolve()


def run_row(table: dict[str, Any], name: str, seed: int, *, options: argparse.Namespace) -> None:
    """Train and evaluate one row with one seed, unless its result is there."""
    row, folder = table["rows"][name], folder_of(name, seed, options.out)
    if (folder / "result.json").exists():
        return
    bundle = _bundle(table)
    configs = [*table["configs"], *row.get("configs", [])]
    values = {
        "bundle_root": bundle,
        "dataset_dir": options.dataset_dir.resolve(),
        "ckpt_dir": folder / "models",
        "seed": seed,
        "progress": False,
        **table.get("values", {}),
        **row.get("values", {}),
    }
    values |= {key: folder_of(source, seed, options.out) / path for key, (source, path) in sources_of(row).items()}
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    # Resuming lets an interrupted comparison go on in the middle of a row.
    train = values | {"output_dir": folder / "training", "resume": True}
    training_configs = [*configs, *table.get("training_configs", [])]
    _bundle_run("training", bundle, training_configs, train, folder / "training.log", options.threads)
    trained = time.monotonic() - start
    evaluate = values | {"output_dir": folder / "evaluation"}
    _bundle_run("evaluating", bundle, [*configs, "evaluate"], evaluate, folder / "evaluation.log", options.threads)
    evaluated = folder / "evaluation"
    cases = {path.stem.removesuffix("_raw"): _per_case(path) for path in sorted(evaluated.glob("*_raw.csv"))}
    pooled = json.loads((evaluated / "report.json").read_text(encoding="utf8")).get("pooled", {})
    facts = run_info(seed) | {"threads_of_run": options.threads, "training_seconds": round(trained)}
    facts["configs"] = training_configs
    result = {"cases": cases, "pooled": pooled, "run": facts}
    _write_result(folder, result)
    metric, (title, digits) = next(iter(table.get("metrics", METRICS).items()))
    print(f"{name}, seed {seed}: {title} {value_of(result, metric):.{digits}f}, {trained:.0f} s", flush=True)


def _bundle(table: dict[str, Any]) -> Path:
    return Path(__file__).resolve().parents[1] / "bundles" / table["bundle"]


def _write_result(folder: Path, result: dict[str, Any]) -> None:
    temporary = folder / "result.tmp"
    temporary.write_text(json.dumps(result, indent=1), encoding="utf8")
    os.replace(temporary, folder / "result.json")


def _bundle_run(run_id: str, bundle: Path, configs: list[str], values: dict[str, Any], log: Path, threads: int) -> None:
    files = [str(bundle / "configs" / f"{name}.json") for name in configs]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id, "--config_file", str(files)]
    for key, value in values.items():
        command += [f"--{key}", str(value)]
    with log.open("a", encoding="utf8") as file:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, stdout=file, stderr=file, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{run_id} failed with exit status {done.returncode}; the end of {log} says why.")


def _per_case(path: Path) -> dict[str, float]:
    """Case to value, from what MONAI's ``MetricsSaver`` wrote."""
    with path.open(newline="", encoding="utf8") as file:
        return {Path(row[0]).name: float(row[1]) for row in list(csv.reader(file))[1:]}


def value_of(result: dict[str, Any], metric: str) -> float:
    """A metric of one run: pooled, or the mean over its cases."""
    pooled = result["pooled"]
    return pooled[metric] if metric in pooled else statistics.fmean(result["cases"][metric].values())


def write_table(table: dict[str, Any], options: argparse.Namespace) -> None:
    """Markdown table of mean and standard deviation over seeds, beside a JSON file with every number."""
    metrics = table.get("metrics", METRICS)
    lines = ["| " + " | ".join(["", *(title for title, _ in metrics.values()), "seconds"]) + " |"]
    lines.append("|---|" + "---|" * (len(metrics) + 1))
    summary: dict[str, Any] = {}
    for name in table["rows"]:
        paths = [folder_of(name, seed, options.out) / "result.json" for seed in options.seeds]
        results = [json.loads(path.read_text(encoding="utf8")) for path in paths if path.exists()]
        if not results:
            continue
        cells = []
        for metric, (_, digits) in metrics.items():
            means = [value_of(result, metric) for result in results]
            spread = statistics.stdev(means) if len(means) > 1 else 0.0
            cells.append(f"{statistics.fmean(means):.{digits}f} ± {spread:.{digits}f}")
            summary.setdefault(name, {})[metric] = means
        seconds = statistics.fmean(result["run"]["training_seconds"] for result in results)
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")
        summary[name]["runs"] = [result["run"] for result in results]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf8")
    (options.out / "table.json").write_text(json.dumps(summary, indent=1), encoding="utf8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
