"""Checkpoints that a crash cannot lose: one folder a step, written aside, brought to the disk, then renamed.

    step-00001000/{*.safetensors, state.json, manifest.json}        LATEST

The manifest holds the size and sha256 of every file and is written last; a folder is only called `step-...` once all
of it is on the disk, and it is never written to again. So after a crash at any instant the newest folder whose files
match their manifest is whole. `LATEST` is for people and scripts; reading trusts manifests alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from ..core import CheckpointError
from ..core.weights import Spec, read_weights, reason, sync, write_weights

MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d{8,})")


class Checkpoint(NamedTuple):
    """One whole checkpoint: its folder, its step and its `state.json`."""

    path: Path
    step: int
    state: dict[str, Any]

    def read(self, part: str, expect: Mapping[str, Spec] | None = None) -> dict[str, Tensor]:
        """Return the tensors of `part`.safetensors, exactly those of `expect` where it is given."""
        return read_weights(self.path / f"{part}.safetensors", expect)


@contextlib.contextmanager
def disk(what: str) -> Generator[None, None, None]:
    """Turn what the disk refuses into a one-line `CheckpointError` that begins with "cannot `what`"."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot {what}: {reason(error)}") from error


def save(
    root: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int = 3
) -> Path:
    """Write checkpoint `step` under `root` and remove all but the newest `keep`.

    `parts` become `<name>.safetensors`, `state` (plain JSON data) becomes `state.json`. Raises `CheckpointError` where
    the disk refuses; the checkpoints that were there are intact then.
    """
    root, name = Path(root), f"step-{step:08d}"
    aside, final = root / f".new-{name}", root / name
    try:
        with disk(f"save the checkpoint {final}"):
            root.mkdir(parents=True, exist_ok=True)
            _clear(root)
            aside.mkdir()
            for part, tensors in parts.items():
                write_weights(aside / f"{part}.safetensors", tensors, {"step": str(step)})
            _write(aside / "state.json", json.dumps(dict(state), indent=1))
            files = {p.name: {"size": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(aside.iterdir())}
            _write(aside / MANIFEST, json.dumps({"step": step, "files": files}, indent=1))
            sync(aside)
            if final.exists():  # a damaged one that was passed over, or an abandoned line of history
                os.rename(final, root / f".old-{name}")
            os.rename(aside, final)
            sync(root)
            _point(root, name)
    except CheckpointError as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(f"{error}; the earlier checkpoints are untouched") from error
    _prune(root, keep)
    return final


def checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint folders under `root`, the newest first, damaged ones included."""
    if not Path(root).is_dir():
        return []
    found = [(int(m.group(1)), p) for p in Path(root).iterdir() if (m := _STEP.fullmatch(p.name)) and p.is_dir()]
    return [p for _, p in sorted(found, reverse=True)]


def verify(path: Path) -> Checkpoint:
    """Return the checkpoint in folder `path` after checking every file against the manifest.

    Raises `CheckpointError` that names the first file that is missing, cut or changed.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = dict(manifest["files"])
        for name, promised in files.items():
            file = path / name
            if file.parent != path or not file.is_file():
                raise CheckpointError(f"{path}: {name} is missing")
            if file.stat().st_size != promised["size"]:
                raise CheckpointError(f"{path}: {name} has {file.stat().st_size} bytes of {promised['size']}")
            if _sha256(file) != promised["sha256"]:
                raise CheckpointError(f"{path}: {name} is not what was written (sha256 differs)")
        if "state.json" not in files:
            raise CheckpointError(f"{path}: its manifest does not name state.json")
        if path.name != f"step-{manifest['step']:08d}":
            raise CheckpointError(f"{path}: its manifest is that of step {manifest['step']}")
        return Checkpoint(path, manifest["step"], json.loads((path / "state.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its manifest cannot be read ({reason(error)})") from error


def latest(root: Path, say: Callable[[str], None] = print) -> Checkpoint | None:
    """Return the newest whole checkpoint under `root` (None without any folder), and say in a line what it passes over.

    Raises `CheckpointError` where there are checkpoints and none is whole.
    """
    folders = checkpoints(root)
    for path in folders:
        try:
            return verify(path)
        except CheckpointError as error:
            say(f"damaged checkpoint passed over: {error}")
    if folders:
        raise CheckpointError(f"none of the {len(folders)} checkpoints in {root} is whole; start a new run")
    return None


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Hold `folder` for this process alone; the system lets go of it however the process ends.

    Raises `CheckpointError` if another process holds it.
    """
    path = Path(folder) / ".lock"
    with disk(f"lock the run {folder}"):
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CheckpointError(
                f"the run {folder} is being written by another process; wait for it or stop it"
            ) from error
        yield
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole or not at all: aside, to the disk, renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with disk(f"write {path}"):
        _write(aside, text)
        os.rename(aside, path)
        sync(path.parent)


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _point(root: Path, name: str) -> None:
    write_text(root / "LATEST", name + "\n")


def _prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep`, each renamed first so that no half-removed folder bears a step's name."""
    with contextlib.suppress(OSError):  # an old folder that stays is no reason to stop a run
        for path in checkpoints(root)[max(keep, 1) :]:
            os.rename(path, path.with_name(f".old-{path.name}"))
        _clear(root)


def _clear(root: Path) -> None:
    """Remove what an interrupted save or removal has left."""
    for path in root.iterdir():
        if path.name.startswith((".new-step-", ".old-step-", ".LATEST.")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
