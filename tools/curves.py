"""Draw the loss of runs that went on from one another: python tools/curves.py RUN [RUN ...] --out PICTURE.png"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.ticker import NullFormatter

from sfumato.reproduce.figures import lines, panels

TICKS = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 3, 4, 6)]


def latest(run: Path) -> Path:
    """Return the folder of a run: `run` itself, or the newest run of that name."""
    if (run / "config.json").is_file():
        return run
    inside = sorted(path.parent for path in run.glob("*/config.json"))
    if not inside:
        raise SystemExit(f"error: {run} holds no run (config.json, metrics.jsonl)")
    return inside[-1]


def curve(folder: Path) -> tuple[str, list[int], list[float]]:
    """Return a run's name, and the loss after how many pictures of it; a resumed run's repeated steps count once."""
    batch = json.loads((folder / "config.json").read_text())["train"]["batch_size"]
    rows: list[dict[str, Any]] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    steps = sorted(losses)
    return folder.parent.name, [step * batch for step in steps], [losses[step] for step in steps]


def main() -> None:
    """Draw every run's loss where the one before ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, in their order")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    figure, (axes,) = panels(1, 1, width=8.4, height=3.4)
    curves: dict[str, tuple[list[float], list[float]]] = {}
    before = 0
    for run in args.runs:
        name, pictures, losses = curve(latest(run))
        curves[name] = ([(before + n) / 1000 for n in pictures], losses)
        before += pictures[-1]
    lines(axes, "Loss, each run at times of its own", "thousand pictures", "mean of 25 steps", curves, log="y")
    for line in axes.get_lines():
        line.set_marker("")
    axes.legend()
    axes.set_yticks([tick for tick in TICKS if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
