"""`sfumato doctor`: check this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DESCRIPTION = "Check this machine: versions, devices, threads, disk, and whether a run can be written. No network."
EPILOG = "example: sfumato doctor --json"
PACKAGES = (
    "torch",
    "numpy",
    "safetensors",
    "pillow",
    "rich",
    "scikit-learn",
    "matplotlib",
    "lightning-fabric",
    "tensorboard",
)
NEEDED = PACKAGES[:7]
ROOM = 2.5  # GiB, for an installation and a few runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", metavar="DIR", default="runs", help="where runs are kept (runs)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when all is well, 1 when something is wrong."""
    facts = examine(Path(args.out))
    if args.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            for line in value if isinstance(value, list) else [value]:
                print(f"{name:<10} {line}" if not isinstance(line, dict) else f"{name:<10} " + _inline(line))
        print("all is well" if not facts["problems"] else "")
    return 1 if facts["problems"] else 0


def examine(out: Path) -> dict[str, Any]:
    """Return what there is, and a line for each problem."""
    import os
    import platform
    import shutil
    from importlib import metadata

    from .. import __version__

    problems: list[str] = []
    versions: dict[str, str] = {"sfumato": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
            if package in NEEDED:
                problems.append(f"{package} is not installed: run the set-up again")
    devices = _devices(problems)
    there = out.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 2**30
    if free < ROOM:
        problems.append(f"only {free:.1f} GiB free for {out}; {ROOM} GiB are advised")
    problems += _write_test(there)
    return {
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "devices": devices,
        "disk": f"{free:.1f} GiB free",
        "problems": problems,
    }


def _devices(problems: list[str]) -> list[str]:
    try:
        import torch
    except ImportError as error:
        problems.append(f"torch cannot be imported: {error}")
        return []
    devices = [f"cpu, {torch.get_num_threads()} threads"]
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i}, {found.name}, {found.total_memory / 2**30:.0f} GiB")
    total = float(torch.ones(64, 64).matmul(torch.ones(64, 64)).sum())
    if total != 64.0**3:
        problems.append(f"a product of two matrices is wrong: {total} instead of {64.0**3}")
    return devices


def _write_test(folder: Path) -> list[str]:
    """Write, fsync, rename and remove a small file: what a checkpoint needs."""
    import os
    import tempfile

    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".sfumato-") as place:
            path = Path(place) / "a"
            with open(path, "wb") as file:
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
            path.rename(Path(place) / "b")
    except OSError as error:
        return [f"{folder} cannot be written: {error.strerror}"]
    return []


def _inline(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())
