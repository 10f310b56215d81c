"""The folder of a run, its metrics, and the record of what made it.

runs/<name>/<UTC time>-<4 hex>/{config.json, command.txt, env.json, metrics.jsonl, tb/, samples/step-*.png,
                                checkpoints/step-*/, checkpoints/LATEST, summary.md}
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..core import CheckpointError, InputError, Model, from_config, to_config
from .checkpoint import disk, write_text
from .config import TrainConfig


class Run:
    """A run's folder; `Run.create` makes a new one, which never is an existing one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"there is no run at {self.path}; give the folder that holds its config.json")

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of the sample grids."""
        return self.path / "samples"

    @classmethod
    def create(cls, root: str | os.PathLike[str], name: str, recipe: Mapping[str, Any] | None = None) -> Run:
        """Make `root/name/<UTC time>-<4 hex>` and write `recipe` (plain JSON data) into its config.json.

        Of several processes that a launcher started, the first makes it; the others learn its path from the Trainer.
        Raises `InputError` for a name that is not one plain folder name.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
            raise InputError(f"a run cannot be called {name!r}; use letters, digits, dots, dashes and underscores")
        if int(os.environ.get("RANK", "0")) > 0:
            run = cls.__new__(cls)
            run.path = Path("the run of the first process")
            return run
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        path = Path(root) / name / f"{now}-{os.urandom(2).hex()}"
        with disk(f"make the run {path}"):
            path.mkdir(parents=True)
            for folder in ("checkpoints", "samples"):
                (path / folder).mkdir()
        run = cls(path)
        write_text(path / "config.json", json.dumps({} if recipe is None else {"recipe": recipe}, indent=1))
        write_text(path / "command.txt", shlex.join(sys.argv) + "\n")
        write_text(path / "env.json", json.dumps(environment(), indent=1))
        return run

    @classmethod
    def newest(cls, root: str | os.PathLike[str], name: str) -> Run | None:
        """Return the newest run called `name` under `root`, None where there is none."""
        folder = Path(root) / name
        found = sorted(p for p in folder.iterdir() if (p / "config.json").is_file()) if folder.is_dir() else []
        return cls(found[-1]) if found else None

    @property
    def config(self) -> dict[str, Any]:
        """What config.json holds: "recipe" as `create` got it, and what the Trainer adds at its start."""
        try:
            return dict(json.loads((self.path / "config.json").read_text()))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {self.path / 'config.json'}: {error}") from error

    def summarise(self, line: str, facts: Mapping[str, Any]) -> None:
        """Write summary.md: `line`, then the `facts` as a table."""
        rows = "".join(f"| {key} | {value} |\n" for key, value in facts.items())
        write_text(self.path / "summary.md", f"# {self.path.parent.name}\n\n{line}\n\n| | |\n|---|---|\n{rows}")

    def settle(self, parts: Mapping[str, Any]) -> None:
        """Write `parts` into config.json; on a resume compare them with what stands there.

        Raises `InputError` that names the first value that differs and would change what is learned.
        """
        config = self.config
        if "train" in config:
            _compare(_course(config), _course(parts), "")
        write_text(self.path / "config.json", json.dumps(config | dict(parts), indent=1))


def _course(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts that decide what is learned."""
    train = to_config(from_config(parts["train"], TrainConfig).course())
    return {k: v for k, v in parts.items() if k != "recipe"} | {"train": train}


def _compare(old: Any, new: Any, where: str) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            _compare(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        raise InputError(
            f"this run was started with {where}={old!r:.60}, not {new!r:.60}; keep that, or start a new run"
        )


def description(model: Model, objective: Any, dataset: Any, config: TrainConfig) -> dict[str, Any]:
    """Return what config.json says about a training: every configuration, and the sha256 of the data."""
    return {
        "train": to_config(config),
        "objective": _written(objective),
        "net": _written(getattr(model.net, "config", None)),
        **{name: _written(part) for name, part in model.around().items()},
        "data": dataset.fingerprint,
    }


def _written(thing: Any) -> Any:
    """Return the configuration of `thing`, or its type's name where it has none."""
    try:
        return to_config(thing)
    except InputError:
        return {"type": f"{type(thing).__module__}.{type(thing).__qualname__}"}


def environment() -> dict[str, Any]:
    """Return the versions and the machine's kind that a result depends on; no names of people or machines."""
    return {
        "sfumato": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


class Metrics:
    """`metrics.jsonl`, one JSON object a line with its "step"; TensorBoard gets a copy where it is installed."""

    def __init__(self, run: Run, step: int) -> None:
        """Open the file and cut what stands behind `step`, so that a resumed run writes no line twice."""
        self.path = run.path / "metrics.jsonl"
        with disk(f"write {self.path}"):
            if self.path.exists():
                write_text(
                    self.path, "".join(line + "\n" for line in _lines(self.path) if json.loads(line)["step"] <= step)
                )
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(run.path / "tb"), purge_step=step + 1)

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line."""
        with disk(f"write {self.path}"):
            self._file.write(json.dumps(dict(values)) + "\n")
            self._file.flush()
        if self._board is not None:
            for key, value in values.items():
                if key != "step":
                    self._board.add_scalar(key, value, values["step"])

    def sync(self) -> None:
        """Bring all lines to the disk: a checkpoint must not be newer than the metrics before it."""
        with disk(f"write {self.path}"):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl."""
    path = run.path / "metrics.jsonl"
    return [json.loads(line) for line in _lines(path)] if path.exists() else []


def _lines(path: Path) -> list[str]:
    """Return the whole lines: a crash may have cut the last one."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]
