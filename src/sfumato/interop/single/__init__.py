"""Checkpoints in one file: a prefix a part, and the names of the code that the networks were trained with."""
