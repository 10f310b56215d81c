"""The command line. Parsers are torch-free modules; what a command needs is imported when it runs.

A command is a module with DESCRIPTION, EPILOG, `add_arguments(parser)` and `run(args) -> exit code`; a new one adds its
row to COMMANDS. Exit codes: 0 ok, 1 failure, 2 usage, 3 diverged, 4 bad checkpoint, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import __version__

if TYPE_CHECKING:
    from .parser import Parser

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("sfumato.cli.demo", "train on real data, sample, measure, and write a report with pictures"),
    "train": ("sfumato.cli.train", "train a recipe, or go on with a run"),
    "sample": ("sfumato.cli.sample", "draw samples from a model"),
    "evaluate": ("sfumato.cli.evaluate", "measure a model against held-out data"),
    "optimise-grid": ("sfumato.cli.optimise_grid", "search the grid of few steps that suits a model"),
    "reproduce": ("sfumato.reproduce.command", "check a published system's claims on this machine"),
    "convert": ("sfumato.cli.convert", "write a model in another layout"),
    "inspect": ("sfumato.cli.inspect", "say what a model, a run or a picture is"),
    "doctor": ("sfumato.cli.doctor", "check this machine: versions, devices, disk"),
    "bench": ("sfumato.cli.bench", "compare speed with other libraries"),
}

_HELP = """usage: sfumato COMMAND ...

Train, sample and measure diffusion models.

{commands}

  --help, --version

example: sfumato demo
Each command has its own help: sfumato train --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; what the user got wrong is one line on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # whoever read our output has gone; keep Python from complaining about it while it shuts down
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise  # a fault of ours: the traceback is the report, and Python exits with 1
        print(f"error: {error}", file=sys.stderr)
        return code


def _dispatch(words: list[str]) -> int:
    first = words[0] if words else "--help"
    if first in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(_HELP.format(commands="\n".join(f"  {name:<{width}}  {says}" for name, (_, says) in COMMANDS.items())))
        return 0 if words else 2
    if first in ("-V", "--version"):
        print(f"sfumato {__version__}")
        return 0
    if first not in COMMANDS:
        from .parser import Usage, nearest

        raise Usage(f"there is no command {first!r}{nearest(first, COMMANDS)}")
    module = importlib.import_module(COMMANDS[first][0])
    parser = _parser(first, module)
    return int(module.run(parser.parse(words[1:])) or 0)


def _parser(name: str, module: object) -> Parser:
    from .parser import Parser

    parser = Parser(
        f"sfumato {name}", getattr(module, "DESCRIPTION", COMMANDS[name][1]), getattr(module, "EPILOG", None)
    )
    module.add_arguments(parser)  # type: ignore[attr-defined]
    return parser
