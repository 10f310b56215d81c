"""A look at a run while it goes, in one file that is whole at any moment and never one of somebody else's."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..pipeline import Pipeline

MARK = "sfumato-preview"  # the text chunk that tells a preview, which may be replaced, from any other picture


def preview_file(file: str, inputs: Sequence[str]) -> Path:
    """Return where previews go; raise `InputError` for one of the `inputs`, a file that is no preview, or no room."""
    from ..core import InputError
    from .places import room

    path = Path(file)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise InputError(f"--preview {file!r:.80} must be a .png in a folder that is there; each step writes it anew")
    if any(Path(one).exists() and path.exists() and path.samefile(one) for one in inputs):
        raise InputError(f"--preview {file!r:.80} is a picture that this call reads: give another name")
    if path.exists() and not _is_preview(path):
        raise InputError(f"--preview {file!r:.80} is there and no preview: nothing is overwritten, give another name")
    with room(path.parent):
        return path


def previewing(pipe: Pipeline, path: Path) -> Callable[[Any, Any], None]:
    """Return a callback that keeps a small picture of the run's state at `path`."""
    from ..pipeline import watching
    from ..pipeline.images import contact_sheet
    from ..pipeline.metadata import encode_png

    failed: list[OSError] = []

    def show(k: Any, pictures: Sequence[Any]) -> None:
        try:
            _replace(path, encode_png(contact_sheet(pictures), None, {MARK: "a look at a run"}))
        except OSError as error:  # a look is not worth the run
            if not failed:
                print(f"note: --preview {path} cannot be written: {error.strerror}", file=sys.stderr)
            failed.append(error)

    return watching(pipe, show)


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(aside, "xb") as file:
            file.write(data)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _is_preview(path: Path) -> bool:
    """Return whether a file begins as a preview does: the mark stands before the pixels."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return f"tEXt{MARK}\0".encode() in file.read(4096)
