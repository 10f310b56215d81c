"""The child process that reads a pickle of weights: `python -m sfumato.interop.unpickle SRC DST MEMORY SECONDS`.

It has no more memory and time than it was given, runs torch's restricted reader, which calls nothing but what rebuilds
tensors, and writes safetensors. What it prints is one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

INSIDE = ("state_dict", "model", "module", "params_ema")  # where trainers put a network's weights


def limited(memory: int, seconds: int) -> None:
    """Bound what this process may map beyond what it has now, and the processor time that it may use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").is_file() else 0
    now = pages * resource.getpagesize() or 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def inflated(path: Path) -> str | None:
    """Return why a zip file is none that torch wrote: torch compresses nothing, so that sizes cannot lie."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
    total = sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or total > path.stat().st_size:
        return f"its parts unpack to {total:,} bytes from {path.stat().st_size:,}: no checkpoint is compressed"
    return None


def tensors_of(held: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors of what was read, those of a `state_dict` inside it, and the names of all else."""
    import torch

    left: list[str] = []
    while isinstance(held, dict):
        table = cast("dict[Any, Any]", held)
        name = next((k for k in INSIDE if isinstance(table.get(k), dict)), None)
        if name is None or not any(isinstance(v, torch.Tensor) for v in table[name].values()):
            break
        left += [str(k) for k in table if k != name]
        held = table[name]
    if not isinstance(held, dict):
        return {}, []
    table = cast("dict[Any, Any]", held)
    found = {str(k): v for k, v in table.items() if isinstance(v, torch.Tensor)}
    return found, sorted([*left, *(str(k) for k in table if str(k) not in found)])


def main(words: list[str]) -> dict[str, Any]:
    """Read a pickle and write its tensors; return what to print."""
    source, target = Path(words[0]), Path(words[1])
    if (reason := inflated(source)) is not None:
        return {"error": reason}
    import torch

    from ..core.weights import write_weights

    torch.set_num_threads(1)
    limited(int(words[2]), int(words[3]))
    held = torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    tensors, left = tensors_of(held)
    if not tensors:
        return {"error": "it holds no table of tensors"}
    write_weights(target, tensors, {"format": "pt"})
    return {"tensors": len(tensors), "left": left[:20]}


if __name__ == "__main__":
    try:
        said = main(sys.argv[1:])
    except MemoryError:
        said = {"error": "it asks for more memory than its size explains"}
    except Exception as error:
        said = {"error": " ".join(str(error).split())[:300] or type(error).__name__}
    print(json.dumps(said))
