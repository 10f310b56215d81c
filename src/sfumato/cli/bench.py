"""`sfumato bench`: run the benchmarks of a checkout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .parser import Usage, nearest

DESCRIPTION = "Compare speed with other libraries: same work, one thread, interleaved, medians, outputs checked."
EPILOG = """Needs a checkout of the repository, and the `peers` extra.

examples:
  sfumato bench --list
  sfumato bench startup
  sfumato bench sampling --full"""
NOT_BENCHMARKS = ("harness",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="benchmarks to run (all)")
    parser.add_argument("--list", action="store_true", help="show what there is")
    parser.add_argument("--full", action="store_true", help="also what takes many minutes and gigabytes")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; 1 when a ratio is below its floor or an output is wrong."""
    scripts = benchmarks()
    for name in args.names:
        if name not in scripts:
            raise Usage(f"there is no benchmark {name!r}{nearest(name, scripts)}")
    if args.list:
        import ast

        for name, path in scripts.items():
            says = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            print(f"{name:<18}{says.splitlines()[0] if says else ''}")
        return 0
    return _run_all({name: scripts[name] for name in args.names or scripts}, args.json, args.full)


def benchmarks() -> dict[str, Path]:
    """Return the scripts of the checkout by name; raises `Usage` outside of one."""
    for root in (Path.cwd(), *Path(__file__).resolve().parents):
        folder = root / "benchmarks"
        if (folder / "harness.py").is_file():
            scripts = {p.stem: p for p in sorted(folder.glob("*.py")) if p.stem not in NOT_BENCHMARKS}
            return {n: p for n, p in scripts.items() if "harness" in p.read_text(encoding="utf-8")}
    raise Usage("no benchmarks here: run this in a checkout of the repository")


def _run_all(scripts: dict[str, Path], as_json: bool, full: bool) -> int:
    import json
    import os
    import subprocess
    import sys
    import tempfile

    source = str(Path(__file__).resolve().parents[2])
    # one thread, set before torch starts
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]),
    }
    rows: list[dict[str, Any]] = []
    worst = 0
    with tempfile.TemporaryDirectory() as place:
        for name, path in scripts.items():
            target = Path(place) / f"{name}.json"
            more = ["--full"] if full and '"--full"' in path.read_text(encoding="utf-8") else []
            words = [sys.executable, str(path), *more, "--json", str(target)]
            print(f"{name}:", file=sys.stderr, flush=True)
            code = subprocess.run(words, env=env, stdout=sys.stderr if as_json else None, check=False).returncode
            worst = max(worst, 1 if code else 0)
            if target.exists():
                rows += [{"benchmark": name, **row} for row in json.loads(target.read_text())]
    if as_json:
        print(json.dumps(rows))
    return worst
