"""The oracle of the tableau world: what a picture shows, how sure that is, and whether a caption holds of it."""

from .read import Reading, read
from .score import TASKS, Scores, score, table, task

__all__ = ["TASKS", "Reading", "Scores", "read", "score", "table", "task"]
