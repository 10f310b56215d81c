"""The oracle of the tableau world: what a picture shows, how sure that is, and whether a caption holds of it."""

from .read import Reading, read

__all__ = ["Reading", "read"]
