"""Pickles of weights made safetensors, in a child process with little memory and time, and nothing else of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from ..core.errors import CheckpointError, InputError
from ..core.json_file import read_json
from ..pipeline.aside import whole
from .files import PICKLES

MEMORY = 1 << 30  # bytes beyond the file's own size, which is read once and written once
SECONDS = 600


def convert_pickle(source: Path, target: Path, *, memory: int = MEMORY, seconds: int = SECONDS) -> list[str]:
    """Write the tensors of a `.ckpt`, `.pt` or `.bin` as safetensors; return the names of what is no tensor.

    A reader that runs nothing of the file (`inert`) works in a child that may use twice the file's size and `memory`
    bytes, for `seconds`. What is no tensor is named, as are the classes of what stood beside the weights. A learned
    word is written as `read_inversion` reads it.

    Raises `InputError` for a target that exists, `CheckpointError` with the reason for a file that is refused.
    """
    if target.exists() or target.suffix != ".safetensors":
        raise InputError(f"{target} must be a new file that ends in .safetensors; nothing is overwritten")
    if not source.is_file():
        raise InputError(f"there is no file {source}")
    bound = str(2 * source.stat().st_size + memory)
    # -P: a torch.py that somebody put beside the file is not imported
    command = [sys.executable, "-P", "-m", "sfumato.interop.unpickle", str(source), str(target), bound, str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        said = {"error": f"it took more than {seconds} s"}
    except (ValueError, IndexError):
        said = {}
    if "tensors" not in said:
        why = said.get("error", "its reader was stopped: it asked for more memory or time than its size explains")
        raise CheckpointError(f"{source} is refused: {why}")
    return list(said["left"])


def convert_folder(source: Path, target: Path) -> list[str]:
    """Write a copy of a diffusers folder whose pickles are safetensors; return the names of what was left out.

    Files and folders that are links are left out. Raises as `convert_pickle`.
    """
    left: list[str] = []
    with whole(target) as aside:
        for path in sorted(source.rglob("*")):
            inside = path.relative_to(source)
            if path.is_symlink() or any((source / p).is_symlink() for p in inside.parents):
                left.append(str(inside))
            elif path.is_dir():
                (aside / inside).mkdir(parents=True, exist_ok=True)
            elif path.suffix.lower() in PICKLES:
                made = (aside / inside).with_name(_renamed(path.name))
                if not (source / inside).with_name(made.name).exists():  # safetensors stand beside it
                    left += [f"{inside}: {name}" for name in convert_pickle(path, made)]
            elif path.name.endswith(".bin.index.json"):
                table = read_json(path, most=16 << 20)
                names = table.get("weight_map")
                if not isinstance(names, dict):
                    raise CheckpointError(f"{path} has no weight_map")
                table["weight_map"] = {k: _renamed(str(v)) for k, v in names.items()}
                made = (aside / inside).with_name(_renamed(path.name.removesuffix(".index.json")) + ".index.json")
                made.write_text(json.dumps(table, indent=2), encoding="utf-8")
            else:
                (aside / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, aside / inside)
    return left


def _renamed(name: str) -> str:
    """Return the name that safetensors have for a pickle's: transformers' lose "pytorch_" with it."""
    stem = name.rpartition(".")[0]
    return (stem.removeprefix("pytorch_") if stem.startswith("pytorch_model") else stem) + ".safetensors"
