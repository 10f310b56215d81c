"""Recipes: functions that return the full configuration of a training, every field of which can be set."""

from __future__ import annotations

from collections.abc import Callable

from .datasaurus import datasaurus
from .digits import digits
from .folder import folder
from .judging import JudgeRecipe, judge_of_run
from .likelihood import bits_per_dim
from .overrides import changes, flatten, override
from .recipe import Recipe, Training, recipe_of, train
from .run import pipeline_of_run
from .tableau_clip import tableau_clip

RECIPES: dict[str, Callable[[], Training]] = {
    "datasaurus": datasaurus,
    "digits": digits,
    "folder": folder,
    "tableau-clip": tableau_clip,
}

__all__ = [
    "RECIPES",
    "JudgeRecipe",
    "Recipe",
    "Training",
    "bits_per_dim",
    "changes",
    "datasaurus",
    "digits",
    "flatten",
    "folder",
    "judge_of_run",
    "override",
    "pipeline_of_run",
    "recipe_of",
    "tableau_clip",
    "train",
]
