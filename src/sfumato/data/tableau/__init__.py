"""A small captioned world whose truth is known and can be read back: scenes, pictures, captions and their claims."""

from .captions import AltText, Caption, Chinese, Descriptive, Paraphrased, Partial, Style, Terse, Wrong
from .claims import Claims, Facts, GroundClaim, Mention, facts, holds
from .creatures import Creatures, TableauCreatures
from .dataset import EVALUATION, TRAIN, Tableau
from .defects import Defective, DirtyLabel, Poison, Poisoned
from .moving import TableauFilms
from .paint import paint, visible
from .pairs import TableauEdits
from .parsing import parse
from .preferences import TableauPreferences
from .relations import RELATIONS, relations
from .sampling import Law, sample_scenes
from .scene import COLOURS, GROUND_COLOURS, GROUNDS, MAX_OBJECTS, SHAPES, SIZES, TEXTURES, Scenes, cat, held_out, scene
from .words import WORDS

__all__ = [
    "COLOURS",
    "EVALUATION",
    "GROUNDS",
    "GROUND_COLOURS",
    "MAX_OBJECTS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "TRAIN",
    "WORDS",
    "AltText",
    "Caption",
    "Chinese",
    "Claims",
    "Creatures",
    "Defective",
    "Descriptive",
    "DirtyLabel",
    "Facts",
    "GroundClaim",
    "Law",
    "Mention",
    "Paraphrased",
    "Partial",
    "Poison",
    "Poisoned",
    "Scenes",
    "Style",
    "Tableau",
    "TableauCreatures",
    "TableauEdits",
    "TableauFilms",
    "TableauPreferences",
    "Terse",
    "Wrong",
    "cat",
    "facts",
    "held_out",
    "holds",
    "paint",
    "parse",
    "relations",
    "sample_scenes",
    "scene",
    "visible",
]
