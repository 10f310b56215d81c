"""Conditioning: what a person gives, turned into the condition tensors of a network."""

from .classes import Classes, Nothing
from .conditioner import Conditioner, Encoded, Frame, Prompt

__all__ = ["Classes", "Conditioner", "Encoded", "Frame", "Nothing", "Prompt"]
