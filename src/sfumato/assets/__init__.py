"""Models that come with the package: a folder each, as `Pipeline.save` writes it, with a card and hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..core.errors import CheckpointError

HASHES = "hashes.json"
HOME = Path(__file__).parent


def shipped(name: str) -> Path | None:
    """Return the folder of the model that is shipped under `name`, None where there is none.

    Raises `CheckpointError` where a file of it is missing or is not the one that was shipped.
    """
    folder = HOME / name
    if name not in names():
        return None
    for file, expected in json.loads((folder / HASHES).read_text(encoding="utf-8")).items():
        path = folder / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise CheckpointError(f"{path} is not the file that was shipped: install the package again")
    return folder


def names() -> list[str]:
    """Return the names of the models that are shipped."""
    return sorted(p.parent.name for p in HOME.glob(f"*/{HASHES}"))


def seal(folder: Path) -> dict[str, str]:
    """Write the hashes of the files in `folder`, which makes it a shipped model; return them."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != HASHES)
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    (folder / HASHES).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    return hashes
