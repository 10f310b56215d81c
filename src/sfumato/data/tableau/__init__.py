"""A small captioned world whose truth is known and can be read back."""
