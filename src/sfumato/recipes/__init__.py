"""Recipes: functions that return the full configuration of a training, every field of which can be set."""

from __future__ import annotations

from collections.abc import Callable

from .coding import CodecRecipe, codec_of_run, reconstruction
from .datasaurus import datasaurus
from .digits import digits
from .folder import folder
from .judging import JudgeRecipe, judge_of_run
from .likelihood import bits_per_dim
from .overrides import changes, flatten, override
from .reading import ReaderRecipe, examined
from .recipe import Recipe, Training, recipe_of, train
from .run import pipeline_of_run
from .tableau import tableau
from .tableau_clip import tableau_clip
from .tableau_codecs import tableau_dvae, tableau_kl, tableau_tiny, tableau_vae, tableau_vq
from .tableau_reader import tableau_reader

RECIPES: dict[str, Callable[[], Training]] = {
    "datasaurus": datasaurus,
    "digits": digits,
    "folder": folder,
    "tableau": tableau,
    "tableau-clip": tableau_clip,
    "tableau-dvae": tableau_dvae,
    "tableau-kl": tableau_kl,
    "tableau-reader": tableau_reader,
    "tableau-tiny": tableau_tiny,
    "tableau-vae": tableau_vae,
    "tableau-vq": tableau_vq,
}

__all__ = [
    "RECIPES",
    "CodecRecipe",
    "JudgeRecipe",
    "ReaderRecipe",
    "Recipe",
    "Training",
    "bits_per_dim",
    "changes",
    "codec_of_run",
    "datasaurus",
    "digits",
    "examined",
    "flatten",
    "folder",
    "judge_of_run",
    "override",
    "pipeline_of_run",
    "recipe_of",
    "reconstruction",
    "tableau",
    "tableau_clip",
    "tableau_dvae",
    "tableau_kl",
    "tableau_reader",
    "tableau_tiny",
    "tableau_vae",
    "tableau_vq",
    "train",
]
