"""Make the virtual environment: torch first and alone, then the package with its extras, all under constraints.txt.

    python3 tools/setup.py [EXTRA ...]          e.g. `python3 tools/setup.py test`

A stamp of everything that decides the result makes the next call immediate. Environment: TORCH='torch==2.14.1' asks
for another torch, TORCH=skip keeps the one that the interpreter already has.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "sfumato.stamp"
NEEDED_GB = 3.0


def fail(message: str) -> None:
    """Print one line and stop with exit code 2."""
    print(f"setup: {message}", file=sys.stderr)
    sys.exit(2)


def stamp(extras: list[str], torch: str) -> str:
    """Return a hash of what decides the environment."""
    digest = hashlib.sha256(f"{sys.version}|{sys.executable}|{torch}|{','.join(extras)}|{ROOT}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def run(*command: str) -> None:
    """Run a command; on failure say which and stop."""
    result = subprocess.run(command, cwd=ROOT, check=False)
    if result.returncode:
        fail(f"`{' '.join(command)}` failed with exit code {result.returncode}; its output is above")


def main() -> None:
    """Set up, or find that nothing is to be done."""
    wanted = sorted(set(sys.argv[1:]))
    torch = os.environ.get("TORCH", "torch")
    done = STAMP.read_text().split("\n") if STAMP.exists() else []
    extras = sorted(set(wanted) | set(done[1].split(",") if len(done) > 1 and done[1] else []))
    if done and done[0] == stamp(extras, torch):
        return
    if not (3, 11) <= sys.version_info[:2] < (3, 15):
        fail(f"Python {sys.version.split()[0]} is not supported: use 3.11 or 3.12 (make PYTHON=python3.12 demo)")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB and not VENV.exists():
        fail(f"{free:.1f} GB free on this disk: set-up needs about {NEEDED_GB:g} GB")
    python = str(VENV / ("Scripts" if os.name == "nt" else "bin") / "python")
    version = VENV / "sfumato.python"
    if not version.exists() or version.read_text() != sys.version:
        shutil.rmtree(VENV, ignore_errors=True)
        print("setup: making the virtual environment .venv", flush=True)
        run(sys.executable, "-m", "venv", *(["--system-site-packages"] if torch == "skip" else []), str(VENV))
        version.write_text(sys.version)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-input")
    if torch != "skip":
        print("setup: installing torch (the largest part)", flush=True)
        own = torch != "torch"  # another version than the committed one: the constraints must not forbid it
        run(*pip, *([] if own else ["-c", "constraints.txt"]), torch)
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [line for line in constraints if torch == "torch" or not line.startswith("torch==")]
    trimmed = VENV / "constraints.txt"
    trimmed.write_text("\n".join(kept) + "\n")
    names = f"[{','.join(extras)}]" if extras else ""
    print(f"setup: installing sfumato{names} and what it needs", flush=True)
    run(*pip, "-c", str(trimmed), "-e", f".{names}")
    STAMP.write_text(f"{stamp(extras, torch)}\n{','.join(extras)}\n")


if __name__ == "__main__":
    main()
