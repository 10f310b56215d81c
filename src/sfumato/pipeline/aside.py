"""A folder written aside and renamed: whole or not at all, never over something."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..core import CheckpointError, InputError
from ..core.weights import reason, sync


@contextmanager
def whole(folder: Path) -> Generator[Path]:
    """Give a new folder to write in, which becomes `folder` where nothing was raised.

    Raises `InputError` for a folder that holds something, `CheckpointError` where the disk refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already holds something; nothing is overwritten, give a new folder")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        yield aside
        sync(aside)
        os.rename(aside, folder)
        sync(folder.parent)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {reason(error)}; nothing was overwritten") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
