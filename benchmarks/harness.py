"""How every benchmark is run: peer and ours interleaved, one thread, CPU time, medians, outputs compared."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

ROWS: list[dict[str, Any]] = []


def compare(
    name: str,
    *,
    peer: Callable[[], Any],
    ours: Callable[[], Any],
    floor: float,
    goal: float,
    rounds: int = 7,
    error: Callable[[], float] | None = None,
    bar: float = 1e-5,
) -> dict[str, Any]:
    """Time two callables round by round and print `peer s, ours s, ratio, error`; the row is kept for `finish`.

    `error` says how far our output is from the peer's, and `bar` how far it may be. A warm-up of each is not counted.
    """
    peer(), ours()
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for _ in range(rounds):
        for key, run in (("peer", peer), ("ours", ours)):
            start = time.process_time()
            run()
            times[key].append(time.process_time() - start)
    seconds = {key: statistics.median(values) for key, values in times.items()}
    row = {
        "name": name,
        "peer_s": seconds["peer"],
        "ours_s": seconds["ours"],
        "ratio": seconds["peer"] / seconds["ours"],
        "floor": floor,
        "goal": goal,
        "error": None if error is None else float(error()),
        "bar": bar,
        "rounds": rounds,
    }
    return record(row)


def record(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row (name, peer_s, ours_s, ratio, floor, goal, error, bar) and keep it for `finish`."""
    wrong = row["error"] is not None and not row["error"] <= row["bar"]
    state = "WRONG" if wrong else "BELOW FLOOR" if row["ratio"] < row["floor"] else ""
    state = state or ("goal" if row["ratio"] >= row["goal"] else "floor")
    row["state"] = state
    ROWS.append(row)
    shown = "-" if row["error"] is None else f"{row['error']:.1e}"
    print(
        f"{row['name']:<46} peer {row['peer_s']:.4g} s  ours {row['ours_s']:.4g} s  ratio {row['ratio']:.2f}x "
        f"(floor {row['floor']:g}, goal {row['goal']:g})  error {shown}  {state}",
        flush=True,
    )
    return row


def write(rows: list[dict[str, Any]]) -> None:
    """Write the rows to the file of `--json FILE`, if that was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", default=None, help="write the rows to this file")
    target = parser.parse_known_args()[0].json
    if target:
        with open(target, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


def finish() -> None:
    """Exit with 1 if any row was wrong or below its floor; with `--json FILE` write the rows there."""
    write(ROWS)
    sys.exit(1 if any(row["state"] in ("WRONG", "BELOW FLOOR") for row in ROWS) else 0)
