"""Where a command writes and what it reads, looked at before its work begins: what cannot be kept is not computed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def room(folder: Path) -> Generator[Path]:
    """Give `folder`, made and tried; of what was made for it, the empty folders go again where the work fails.

    Raises `InputError` where nothing can be written.
    """
    from ..core import InputError

    made: list[Path] = []
    try:
        try:
            made += [path for path in (folder, *folder.parents) if not path.exists()]  # the innermost first
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}; give another folder") from error
        yield folder
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def of_weights(path: Path, reads: str) -> None:
    """Raise `InputError` for a file that is neither of safetensors nor a pickle, saying what the command `reads`."""
    from ..core import InputError
    from ..pipeline.loading import is_pickle

    if not path.is_file() or path.suffix.lower() == ".safetensors" or is_pickle(path):
        return
    with open(path, "rb") as file:
        begins = file.read(9)
    if begins[8:] != b"{":  # a length of 8 bytes, then JSON: files of safetensors without their name are read too
        raise InputError(f"{path} is no file of weights: {reads}")
