"""What a newcomer waits for: the model that comes with the package, loaded, one picture of 20 steps, five prompts.

Each in a process of its own, as a user's command is; the median of five. No peer has such a model: the goals are a load
within a second, a picture within two on two cores. `MODEL` may be any model or run that reads captions of the world.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import subprocess
import sys
import time

GOALS = {"load": 1.0, "one picture, 20 steps": 2.0, "five prompts, four pictures each": 30.0}


def child(model: str) -> None:
    """Print the seconds of each."""
    importlib.import_module("torch")  # not of what is timed

    import sfumato as sf
    from sfumato.demo.captions import EACH, PROMPTS

    marks = [time.perf_counter()]
    pipe = sf.load(model)
    marks.append(time.perf_counter())
    pipe("two green stars left of a large red ring", seed=7, steps=20)
    marks.append(time.perf_counter())
    pipe(list(PROMPTS), n=EACH, seed=0, steps=20)
    marks.append(time.perf_counter())
    print(*(b - a for a, b in itertools.pairwise(marks)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", nargs="?", default="tableau")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.model)
    command = [sys.executable, __file__, args.model, "--child"]
    found = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(args.rounds)]
    rows = zip(*([float(v) for v in f.stdout.split()] for f in found), strict=True)
    for (name, goal), seconds in zip(GOALS.items(), rows, strict=True):
        print(
            f"{name:34} {statistics.median(seconds):6.2f} s   (goal {goal:g}; {min(seconds):.2f} to {max(seconds):.2f})"
        )
    return None


if __name__ == "__main__":
    main()
