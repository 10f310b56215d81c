"""Reading a picture that somebody else made: bytes in, an upright 8-bit RGB picture out, or the reason why not.

A picture that is open already goes the same way from `upright` or `grey_levels` on, and comes out the same.

Nothing is decoded before its kind and its size are known to be harmless, and nothing outside the folder is opened.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ..core import InputError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 20_000_000  # of a file
MAX_PIXELS = 4096 * 4096  # 50 MB once decoded
MAX_SIDE = 8192
MAX_SCANS = 64  # a progressive JPEG has about 10; each one costs a pass over the whole picture
BACKGROUND = (255, 255, 255)  # what transparent pixels lie on: white, as on a page

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF 2.32, tag 0x0112


def read_bytes(root: Path, name: str) -> bytes:
    """Return the content of the plain file `name` inside of the resolved folder `root`.

    Raises `InputError` with the reason for a link that leaves the folder, anything that is not a plain file, an empty
    file, more than 20 MB, or a file that cannot be read.
    """
    try:
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise InputError("a link that leaves the folder")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError("not a plain file")
        if not 0 < status.st_size <= MAX_BYTES:
            raise InputError(f"{status.st_size} bytes; 1 to {MAX_BYTES} are read")
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            return file.read(MAX_BYTES)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links (Python < 3.13), a zero byte in the name
        raise InputError(f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})") from None


def decode(content: bytes) -> Image.Image:
    """Return the upright 8-bit RGB picture in `content`: PNG, JPEG or WebP, one frame (`load`, then `upright`)."""
    return upright(load(content))


def load(content: bytes) -> Image.Image:
    """Return the picture in `content` as it is stored, decoded completely: PNG, JPEG or WebP, one frame.

    Of a multi-picture JPEG, as cameras write them, the first picture is taken.

    Raises `InputError` with the reason for other kinds (by content, whatever the name says), more than 4096^2 pixels,
    a side over 8192, animations, other files appended to a PNG or WebP, and whatever does not decode completely.
    """
    _check_container(content)
    with _explained(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise InputError(f"{width} x {height} pixels; at most {MAX_PIXELS} with sides of at most {MAX_SIDE}")
        if getattr(image, "n_frames", 1) != 1 and image.format != "MPO":
            raise InputError("an animation; only still pictures are read")
        image.load()
        return image


def upright(image: Image.Image) -> Image.Image:
    """Return the picture as EXIF says that it stands, in 8-bit RGB, with nothing beside its pixels.

    Transparency is composed over white in 8 bits. Of 16-bit values the high byte is kept. Palettes are looked up,
    grey is repeated, CMYK is converted without a profile; colour profiles are not applied. Raises `InputError` for
    modes that have no RGB.
    """
    with _explained():
        rgb = _turned(_to_rgb(image), image)
    rgb.info.clear()  # it stands upright: what says how to turn it would turn it once more
    return rgb


def grey_levels(image: Image.Image) -> NDArray[np.float32]:
    """Return [height, width] of a picture as it stands: grey of more than 8 bits as it is, all else as grey of 0..255.

    Raises as `upright`.
    """
    if not image.mode.startswith(("I", "F")):
        return np.array(upright(image).convert("L"), dtype=np.float32)
    with _explained():
        return np.array(_turned(image, image), dtype=np.float32)


@contextmanager
def _explained() -> Generator[None]:
    """Turn what decoders raise into `InputError`: some fifteen types on hostile bytes."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"does not decode ({type(error).__name__}: {reason})") from None


def _check_container(content: bytes) -> None:
    """Refuse by the bytes alone: other kinds, several files in one, pictures made to decode for ever."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        if not content.endswith(b"\x00\x00\x00\x00IEND\xaeB`\x82"):
            raise InputError("a PNG that does not end where its picture ends: cut short, or something is appended")
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        length = int.from_bytes(content[4:8], "little") + 8
        if not length <= len(content) <= length + length % 2:
            raise InputError("a WebP that does not end where its picture ends: cut short, or something is appended")
    elif content.startswith(b"\xff\xd8\xff"):
        if content.count(b"\xff\xda") > MAX_SCANS:
            raise InputError(f"a JPEG of more than {MAX_SCANS} scans")
    else:
        raise InputError("not a PNG, JPEG or WebP")


def _turned(image: Image.Image, source: Image.Image) -> Image.Image:
    """Return `image` turned as the EXIF of `source`, which it was made of, says."""
    turn = _UPRIGHT.get(source.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        grey = Image.fromarray((levels >> 8).clip(0, 255).astype(np.uint8))  # mode I has 32 bits
        if "transparency" in image.info:
            grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
        image = grey
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
