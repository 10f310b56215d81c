"""Weights in a folder of another library: one safetensors file, or shards with an index; never pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..core import CheckpointError
from ..core.json_file import read_json
from ..core.weights import read_weights, write_weights

SHARD = 5_000_000_000  # bytes, where the peers' own writers cut by default or above
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def weights_in(folder: Path, stem: str, variant: str | None = None) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    """Return (tensors, files) of `stem`.safetensors, `stem`.`variant`.safetensors, or the shards of their index.

    Without `variant`, the plain file is taken where there is one, else the only variant. The tensors are mapped: their
    pages come from the disk when they are used. Raises `CheckpointError` for what is missing or damaged, and for
    folders that hold pickles alone.
    """
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if variant is not None:
        whole, index = f"{stem}.{variant}.safetensors", f"{stem}.safetensors.index.{variant}.json"
    else:
        whole, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
        if whole not in names and index not in names:
            found = [n for n in names if n.startswith(f"{stem}.") and ".safetensors" in n]
            single = [n for n in found if n.endswith(".safetensors") and "-of-" not in n]
            shards = [n for n in found if ".safetensors.index." in n]
            whole, index = (single[0] if len(single) == 1 else whole), (shards[0] if len(shards) == 1 else index)
            if len(single) + len(shards) > 1:
                raise CheckpointError(f"{folder} holds {', '.join(single + shards)}: say which one with variant=")
    if whole in names:
        return read_weights(folder / whole), (folder / whole,)
    if index in names:
        return _sharded(folder, index, names)
    if pickled := [n for n in names if n.lower().endswith(PICKLES)]:
        raise CheckpointError(
            f"{folder / pickled[0]} is a pickle, which can run code when it is read: "
            "`sfumato convert --allow-pickle` writes it as safetensors first"
        )
    raise CheckpointError(f"{folder} has no {whole}" + (f"; it holds {', '.join(names[:6])}" if names else ""))


def holds(folder: Path, stem: str, variant: str | None = None) -> bool:
    """Return whether a folder has the weights of a variant, as one file or as shards; None is the plain ones."""
    dot = "" if variant is None else f".{variant}"
    names = f"{stem}{dot}.safetensors", f"{stem}.safetensors.index{dot}.json"
    return any((folder / name).is_file() for name in names)


def _sharded(folder: Path, index: str, names: list[str]) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    table = read_json(folder / index, most=16 << 20).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise CheckpointError(f"{folder / index} has no weight_map from tensors to files")
    files = sorted(set(table.values()))
    for name in files:
        if "/" in name or "\\" in name or name not in names:
            raise CheckpointError(f"{folder / index} names {name!r:.80}, which is no file of its folder")
    tensors: dict[str, Tensor] = {}
    for name in files:
        held = read_weights(folder / name)
        if twice := tensors.keys() & held.keys():
            raise CheckpointError(f"{folder}: {min(twice)!r:.80} stands in two shards")
        tensors |= held
    if lost := sorted(table.keys() - tensors.keys()):
        raise CheckpointError(f"{folder}: its shards lack {lost[0]!r:.80}, which the index names")
    return tensors, tuple(folder / name for name in files)


def write_shards(folder: Path, stem: str, tensors: Mapping[str, Tensor], most: int = SHARD) -> None:
    """Write `stem`.safetensors, or shards of at most `most` bytes with an index, in the order of `tensors`.

    A tensor that is larger stands alone. Raises as `write_weights`.
    """
    parts: list[dict[str, Tensor]] = [{}]
    filled = total = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if parts[-1] and filled + size > most:
            parts.append({})
            filled = 0
        parts[-1][name] = tensor
        filled, total = filled + size, total + size
    if len(parts) == 1:
        write_weights(folder / f"{stem}.safetensors", parts[0], {"format": "pt"})
        return
    table: dict[str, str] = {}
    for i, part in enumerate(parts):
        file = f"{stem}-{i + 1:05}-of-{len(parts):05}.safetensors"
        write_weights(folder / file, part, {"format": "pt"})
        table |= dict.fromkeys(part, file)
    said = {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
