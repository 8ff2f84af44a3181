"""Rossmann store sales with pandas and LightGBM: what a data scientist would write by hand.

Times ingest, features and training of one origin and prints one JSON document. The peer of
`headworks run rossmann`: the same rows, horizon, label and kinds of features; see README.md.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd

HORIZON = 28
CLOSED, SINCE_CAP, LOOKAHEAD = "closed", 30, 7


def ingest(train: Path, store: Path) -> pd.DataFrame:
    """One row per store and day on a grid without holes, covariates joined, closed days unknown."""
    sales = pd.read_csv(train, dtype={"StateHoliday": "str"}, parse_dates=["Date"])
    stores = pd.read_csv(store).sort_values("Store")
    days = pd.date_range(sales["Date"].min(), sales["Date"].max())
    grid = pd.MultiIndex.from_product([stores["Store"], days], names=["Store", "Date"])
    panel = sales.set_index(["Store", "Date"]).reindex(grid).reset_index()
    panel = panel.merge(stores, on="Store", how="left", validate="m:1")
    panel[CLOSED] = (panel["Open"] == 0).astype("float32")
    panel["demand"] = panel["Sales"].where(panel["Open"] == 1)
    panel["holiday"] = panel["StateHoliday"].map({"0": 0, "a": 1, "b": 2, "c": 3})
    for name in ("StoreType", "Assortment"):
        panel[name] = panel[name].astype("category").cat.codes
    months = (panel["Date"].dt.year - panel["CompetitionOpenSinceYear"]) * 12
    panel["competition_months"] = (months + panel["Date"].dt.month - panel["CompetitionOpenSinceMonth"]).clip(lower=0)
    return panel


def shift(values: np.ndarray, periods: int) -> np.ndarray:
    """Values that many columns earlier; negative: later."""
    moved = np.full(values.shape, np.nan)
    if periods > 0:
        moved[:, periods:] = values[:, :-periods]
    else:
        moved[:, :periods] = values[:, -periods:]
    return moved


def rolling(values: np.ndarray, window: int, statistic: str) -> np.ndarray:
    """A statistic of the window that ends a horizon back."""
    frame = pd.DataFrame(values.T).rolling(window, min_periods=1)
    return shift(getattr(frame, statistic)().to_numpy().T, HORIZON)


def since(flag: np.ndarray) -> np.ndarray:
    """Days since a flag was last set, before this one, capped."""
    days = np.full(flag.shape, np.nan)
    last = np.full(flag.shape[0], np.nan)
    for day in range(flag.shape[1]):
        days[:, day] = np.minimum(day - last, SINCE_CAP)
        last = np.where(flag[:, day] == 1, day, last)
    return days


def same_state(demand: np.ndarray, flag: np.ndarray, places: int) -> np.ndarray:
    """Mean of all demand known a horizon ago in the same state of a flag, at the same place of `places`."""
    result = np.full(demand.shape, np.nan)
    lag = -(-HORIZON // places) * places // places if places > 1 else HORIZON
    for place in range(places):
        days = slice(place, None, places)
        for state in (0.0, 1.0):
            known = np.where(flag[:, days] == state, demand[:, days], np.nan)
            count = np.cumsum(~np.isnan(known), 1)
            mean = np.nancumsum(known, 1) / np.where(count > 0, count, np.nan)
            part = result[:, days]
            result[:, days] = np.where(flag[:, days] == state, shift(mean, lag), part)
    return result


def features(panel: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.DatetimeIndex]:
    """Feature matrix, demand, closed flags (store x day) and the days."""
    stores = panel["Store"].nunique()
    shape = (stores, len(panel) // stores)

    def column(name: str) -> np.ndarray:
        return panel[name].to_numpy("float64").reshape(shape)

    demand, closed, promo = column("demand"), column(CLOSED), column("Promo")
    days = pd.DatetimeIndex(panel["Date"].to_numpy().reshape(shape)[0])
    made = [shift(demand, lag) for lag in (28, 35, 42, 49, 364)]
    made += [rolling(demand, window, "mean") for window in (7, 28, 91)]
    made += [rolling(demand, 28, statistic) for statistic in ("std", "min", "max")]
    made += [np.nanmean(np.stack([shift(demand, 28 + 7 * k) for k in range(n)]), 0) for n in (4, 8)]
    count = np.cumsum(~np.isnan(demand), 1)
    made.append(shift(np.nancumsum(demand, 1) / np.maximum(count, 1), HORIZON))
    made.append(shift(pd.DataFrame(demand.T).rolling(7, min_periods=1, center=True).mean().to_numpy().T, 364))
    calendar = (days.day_of_week, days.day, days.month, days.isocalendar().week.to_numpy(), days.day_of_year)
    made += [np.broadcast_to(np.asarray(part, "float64"), shape) for part in calendar]
    for name in ("Promo", "holiday", "SchoolHoliday", CLOSED):
        values = column(name)
        made += [values, shift(values, -1), shift(values, 1)]
    for flag in (promo, closed, column("SchoolHoliday"), (column("holiday") > 0).astype("float64")):
        later = since(flag[:, ::-1])[:, ::-1]
        made += [since(flag), np.where(later > LOOKAHEAD, LOOKAHEAD + 1, later)]
    week = pd.DataFrame(closed.T).rolling(7, min_periods=1).sum().to_numpy().T
    made += [shift(week, 1), shift(week, -7)]
    made += [same_state(demand, promo, places) for places in (1, 7)]
    statics = ("StoreType", "Assortment", "CompetitionDistance", "Promo2", "competition_months")
    made += [column(name) for name in statics]
    made.append(np.broadcast_to(np.arange(shape[1], dtype="float64"), shape))
    return np.stack(made, -1).astype("float32"), demand, closed, days


def main() -> None:
    """Parses the command line, runs the pipeline, prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="train.csv, gzipped or not")
    parser.add_argument("--store", type=Path, required=True, help="store.csv")
    parser.add_argument("--origin", default="2015-07-03", help="last day that the model sees")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--leaves", type=int, default=255)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    began = time.perf_counter()
    panel = ingest(options.train, options.store)
    ingested = time.perf_counter()
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        matrix, demand, closed, days = features(panel)
    made = time.perf_counter()

    origin = days.get_loc(pd.Timestamp(options.origin)) + 1
    known = ~np.isnan(demand)
    known[:, origin:] = False
    params = {
        "objective": "l2",
        "learning_rate": options.learning_rate,
        "num_leaves": options.leaves,
        "min_data_in_leaf": 40,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "num_threads": options.threads,
        "seed": 0,
        "verbose": -1,
    }
    booster = lgb.train(params, lgb.Dataset(matrix[known], np.log1p(demand[known])), options.rounds)
    trained = time.perf_counter()

    window = np.zeros(demand.shape, dtype=bool)
    window[:, origin : origin + HORIZON] = True
    forecast = np.maximum(np.expm1(booster.predict(matrix[window], num_threads=options.threads)), 0)
    forecast[closed[window] == 1] = 0
    actual = np.where(closed == 1, 0, demand)[window]
    there = ~np.isnan(actual)
    error = (forecast - actual)[there]
    print(
        json.dumps(
            {
                "origin": options.origin,
                "features": matrix.shape[-1],
                "rows": int(known.sum()),
                "wape": float(np.abs(error).sum() / actual[there].sum()),
                "bias": float(error.sum() / actual[there].sum()),
                "seconds": {
                    "ingest": ingested - began,
                    "features": made - ingested,
                    "train": trained - made,
                    "all": trained - began,
                },
            }
        )
    )


if __name__ == "__main__":
    main()
