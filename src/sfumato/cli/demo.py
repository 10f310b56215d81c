"""`sfumato demo`: the parser."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

DESCRIPTION = (
    "Train a class-conditional diffusion model on 1437 scans of handwritten digits, draw samples with guidance, "
    "measure them beside a perfect and a trivial model, and write a page with the pictures and figures. Second act: "
    "five prompts to the text-to-image model that comes with the package, read back by its oracle, where there is one."
)
EPILOG = "example: sfumato demo --seed 1"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--steps", type=int, default=800, help="training steps (default 800: about a minute)")
    parser.add_argument("--samples", type=int, default=2000, help="samples that are measured (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the training and the classifier (default 0)")
    parser.add_argument("--out", default="runs", help="where runs are kept (default runs); nothing is overwritten")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """Do it."""
    from ..demo.command import run as demo

    return demo(args)
