"""Conditioning: what a person gives, turned into the condition tensors of a network."""

from .classes import Classes, Nothing
from .clip import ClipText
from .conditioner import Conditioner, Encoded, Frame, Prompt
from .hunyuan import HunyuanText
from .inversions import Inversion, read_inversion, with_inversions
from .lumina import LuminaText
from .matched import matched
from .pixart import PixArtText
from .prompts import Verbatim, Weighted
from .sd3 import SD3Text
from .text import Family, TextConditioner
from .text_files import TextConfig
from .tower import Tower
from .tower_files import read_tower, write_tower
from .words import Words
from .xl import RefinerText, XLText

__all__ = [
    "Classes",
    "ClipText",
    "Conditioner",
    "Encoded",
    "Family",
    "Frame",
    "HunyuanText",
    "Inversion",
    "LuminaText",
    "Nothing",
    "PixArtText",
    "Prompt",
    "RefinerText",
    "SD3Text",
    "TextConditioner",
    "TextConfig",
    "Tower",
    "Verbatim",
    "Weighted",
    "Words",
    "XLText",
    "matched",
    "read_inversion",
    "read_tower",
    "with_inversions",
    "write_tower",
]
