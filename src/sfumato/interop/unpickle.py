"""The child process that reads a pickle of weights: `python -m sfumato.interop.unpickle SRC DST MEMORY SECONDS`.

It has no more memory and time than it was given, reads with `Held`, which runs nothing, and writes safetensors. What it
prints is one line of JSON.
"""

from __future__ import annotations

import errno
import json
import resource
import sys
from pathlib import Path
from typing import Any, cast

INSIDE = ("state_dict", "model", "module", "params_ema")  # where trainers put a network's weights
FULL = "it asks for more memory than its size explains"
WORD = "string_to_param"  # where the AUTOMATIC1111 web interface puts the vectors of a learned word, beside its name


def limited(memory: int, seconds: int) -> None:
    """Bound what this process may map beyond what it has now, and the processor time that it may use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").is_file() else 0
    now = pages * resource.getpagesize() or 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def tensors_of(held: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors of what was read, those of a `state_dict` inside it, and the names of all else."""
    from .inert import Stored, shown

    left: list[Any] = []
    while isinstance(held, dict):
        table = cast("dict[Any, Any]", held)
        word = cast("dict[Any, Any]", table.get(WORD)) if isinstance(table.get(WORD), dict) else {}
        if len(word) == 1 and isinstance(vectors := next(iter(word.values())), Stored):
            return {str(table.get("name") or ""): vectors}, sorted(shown(k) for k in table if k not in (WORD, "name"))
        name = next((k for k in INSIDE if isinstance(table.get(k), dict)), None)
        if name is None or not any(isinstance(v, Stored) for v in table[name].values()):
            break
        left += [k for k in table if k != name]
        held = table[name]
    if not isinstance(held, dict):
        return {}, []
    table = cast("dict[Any, Any]", held)
    found = {str(k): v for k, v in table.items() if isinstance(v, Stored) and isinstance(k, (str, int))}
    return found, sorted(map(shown, [*left, *(k for k, v in table.items() if not isinstance(v, Stored))]))


def main(words: list[str]) -> dict[str, Any]:
    """Read a pickle and write its tensors; return what to print."""
    import torch

    from ..conditioning.inversions import write_inversion
    from ..core.errors import SfumatoError
    from ..core.weights import write_weights
    from .inert import Held, Refused, shown

    torch.set_num_threads(1)
    limited(int(words[2]), int(words[3]))
    try:
        file = Held(Path(words[0]))
        found, left = tensors_of(file.value)
        inert = sorted(map(shown, file.inert))
        if not found:
            other = f", but objects of {', '.join(inert[:3])}: only a state_dict() has names for them" if inert else ""
            return {"error": "it holds no table of tensors" + other}
        tensors = {name: file.tensor(stored) for name, stored in found.items()}
        name, first = next(iter(tensors.items()))
        if len(tensors) == 1 and first.ndim in (1, 2) and first.is_floating_point():
            write_inversion(Path(words[1]), name, first)  # a word has signs that no weight's name has
        else:
            write_weights(Path(words[1]), tensors, {"format": "pt"})
    except (Refused, SfumatoError) as error:
        return {"error": str(error)}
    return {"tensors": len(tensors), "left": [*left, *inert][:20]}


if __name__ == "__main__":
    try:
        said = main(sys.argv[1:])
    except OSError as error:
        said = {"error": FULL if error.errno == errno.ENOMEM else f"it cannot be read: {error.strerror}"}
    except (MemoryError, RuntimeError):  # as Python and torch say it
        said = {"error": FULL}
    except Exception as error:
        said = {"error": f"its reader failed ({type(error).__name__})"}
    print(json.dumps(said))
