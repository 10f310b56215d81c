"""The classes of a diffusers folder: one file a class, each a `Layout`."""
