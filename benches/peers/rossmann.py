"""Headworks and LightGBM on one origin of Rossmann, in turn, in one run on one machine.

Prints seconds of ingest, features and training per pipeline (medians) and their ratio. README.md
says what is compared and how to set it up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
STAGES = ("ingest", "features", "train", "all")


def headworks(binary: Path, train: Path) -> dict:
    """One run of dags/rossmann.toml with one window, in a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        environment["HEADWORKS_STORE_URL"] = f"sqlite://{folder}/headworks.db"
        environment["HEADWORKS_ARTIFACTS_URL"] = f"{folder}/objects"
        command = [binary, "run", "rossmann", "--param", "windows=1", "--param", f"source={train}", "--json"]
        done = subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True)
    run = json.loads(done.stdout)
    outputs = run["outputs"]
    seconds = {task["task"]: task["seconds"] for task in run["tasks"] if task["task"] in ("ingest", "features")}
    trained = next(output for output in outputs["train"] if output["model"] == "gbdt")
    # Reading the table, fitting at the origin, forecasting its window. The final fit on all data comes after.
    seconds["train"] = trained["read_seconds"] + trained["backtest_seconds"]
    seconds["all"] = sum(seconds.values())
    whole = (row for row in outputs["evaluate"]["metrics"] if row["model"] == "gbdt" and row["slice"] == "all")
    judged = next(row for row in whole if row["origin"] == trained["origins"][0])
    return {
        "origin": trained["origins"][0],
        "features": outputs["features"]["features"],
        "wape": judged["wape"],
        "bias": judged["bias"],
        "seconds": seconds,
    }


def lightgbm(train: Path, store: Path, rounds: list[str]) -> dict:
    """One run of the peer."""
    command = [sys.executable, HERE / "rossmann_lightgbm.py", "--train", train, "--store", store, *rounds]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Parses the command line, runs both in turn, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="train.csv, gzipped or not; store.csv beside it")
    parser.add_argument("--binary", type=Path, default=PROJECT / "target/release/headworks")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer", default="", help="options of rossmann_lightgbm.py, as one argument")
    options = parser.parse_args()
    train = options.train.resolve()
    store = train.with_name("store.csv")

    found: dict[str, list[dict]] = {"headworks": [], "lightgbm": []}
    for _ in range(options.repeat):
        found["lightgbm"].append(lightgbm(train, store, options.peer.split()))
        found["headworks"].append(headworks(options.binary.resolve(), train))

    medians = {}
    print(f"{'pipeline':<10} {'features':>8} {'WAPE':>7} {'bias':>7} " + " ".join(f"{s:>9}" for s in STAGES))
    for name, runs in found.items():
        medians[name] = {stage: statistics.median(run["seconds"][stage] for run in runs) for stage in STAGES}
        last = runs[-1]
        times = " ".join(f"{medians[name][stage]:>7.1f} s" for stage in STAGES)
        print(f"{name:<10} {last['features']:>8} {last['wape']:>7.4f} {last['bias']:>+7.4f} {times}")
    ratio = medians["headworks"]["all"] / medians["lightgbm"]["all"]
    print(f"headworks / lightgbm: {ratio:.2f} (origin {found['headworks'][-1]['origin']}, {options.repeat} runs each)")


if __name__ == "__main__":
    main()
