"""Run a system: stream its rows, keep what it trains, write figures and rows.json to a folder of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .claims import Measured, Row, System

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

Progress = Callable[[str, float | None], None]


def cache_folder() -> Path:
    """Return where trained models are kept: `SFUMATO_CACHE`, else `sfumato` in the user's cache folder."""
    own = os.environ.get("SFUMATO_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfumato"


def silent(what: str, share: float | None) -> None:
    """Show nothing."""


@dataclasses.dataclass(kw_only=True)
class Context:
    """What a running system is given: where its figures go, what it trained before, and whom to tell how far it is.

    Everything random comes from `seed`, but for the classifier that judges pictures. `folder` None writes no figures;
    `fresh` trains again even what is kept; `quiet` shows no training progress.
    """

    seed: int = 0
    folder: Path | None = None
    cache: Path = dataclasses.field(default_factory=cache_folder)
    fresh: bool = False
    quiet: bool = True
    progress: Progress = silent
    trained: dict[str, float] = dataclasses.field(default_factory=dict)
    kept: list[str] = dataclasses.field(default_factory=list)

    def fitted(self, name: str, config: dict[str, Any], net: nn.Module, fit: Callable[[nn.Module], None]) -> nn.Module:
        """Return `net` after `fit(net)`, or with the weights that an earlier run with the same `config` kept.

        `config` is JSON data that says everything the result depends on; the version of the package is added. What is
        trained is kept in `cache`, whole or not at all; a kept file that is damaged is trained again. `trained[name]`
        becomes the CPU seconds that it took, and `kept` gets the name of what an earlier run has trained.
        """
        from .. import __version__
        from ..core.errors import SfumatoError
        from ..core.weights import read_metadata, read_weights, specs, write_weights

        text = json.dumps({"name": name, "version": __version__, **config}, sort_keys=True)
        path = self.cache / "reproduce" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        expect = specs(net.state_dict())
        if path.exists() and not self.fresh:
            with contextlib.suppress(SfumatoError, OSError, KeyError, ValueError):
                seconds = float(read_metadata(path)["seconds"])
                net.load_state_dict(read_weights(path, expect))
                self.trained[name] = seconds
                self.kept.append(name)
                return net
        began = time.process_time()
        fit(net)
        self.trained[name] = round(time.process_time() - began, 2)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_weights(path, net.state_dict(), {"config": text, "seconds": f"{self.trained[name]:.2f}"})
        except (OSError, SfumatoError) as error:  # the run goes on: only the next one loses
            self.progress(f"could not keep {name}: {error}", None)
        return net

    def draw(self, name: str, paint: Callable[[], Figure]) -> None:
        """Write the figure that `paint` returns as NAME.png, where figures are wanted; matplotlib loads only then."""
        if self.folder is None:
            return
        import matplotlib as mpl

        mpl.use("Agg")
        self.progress(f"drawing {name}", None)
        figure = paint()
        figure.savefig(self.folder / f"{name}.png", dpi=150, bbox_inches="tight", facecolor=figure.get_facecolor())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a run of a system found."""

    system: str
    title: str
    arxiv: str
    protocol: str
    seed: int
    rows: list[Row]
    seconds: float
    cpu_seconds: float
    trained: dict[str, float]
    kept: list[str]
    when: str
    folder: str | None = None

    @property
    def passed(self) -> bool:
        """Whether no row fails."""
        return all(row.status != "fail" for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON data."""
        shallow = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return shallow | {"rows": [row.as_json() for row in self.rows], "passed": self.passed}


def execute(
    system: System,
    *,
    out: Path | None = None,
    fresh: bool = False,
    seed: int | None = None,
    progress: Progress = silent,
    on_row: Callable[[Row], None] | None = None,
) -> Report:
    """Run `system` and return its report; `on_row` sees each row as soon as it is known.

    With `out`, figures and `rows.json` go to out/reproduce/ID/<UTC time>-<4 hex>/, a folder that did not exist before.
    `seed` is the system's own unless given; a run with another goes to out/reproduce/ID/seed-SEED/<UTC time>-<4 hex>/,
    and is not what `last_report` finds: the figures of a card are those of the system's seed.
    Raises `InputError` when that folder cannot be written.
    """
    seed = system.seed if seed is None else seed
    place = Path("reproduce", system.entry.id, "" if seed == system.seed else f"seed-{seed}")
    folder = None if out is None else _new_folder(out / place)
    context = Context(seed=seed, folder=folder, fresh=fresh, progress=progress, quiet=progress is silent)
    wall, cpu = time.monotonic(), time.process_time()
    measured: list[Measured] = []
    claims = {claim.key: claim for claim in system.claims}
    for found in system.run(context):
        if found.key not in claims:
            raise ValueError(f"{system.entry.id} measured {found.key!r}, which it does not claim")
        measured.append(found)
        if on_row is not None:
            on_row(claims[found.key].judge(found))
    rows = system.judge(measured)
    report = Report(
        system=system.entry.id,
        title=system.entry.title,
        arxiv=system.entry.arxiv,
        protocol=system.protocol,
        seed=seed,
        rows=rows,
        seconds=round(time.monotonic() - wall, 1),
        cpu_seconds=round(time.process_time() - cpu, 1),
        trained=context.trained,
        kept=context.kept,
        when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        folder=None if folder is None else str(folder),
    )
    if folder is not None:
        with _named(folder):
            text = json.dumps(report.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
            aside = folder / ".rows.json"
            aside.write_text(text + "\n", encoding="utf-8")
            aside.replace(folder / "rows.json")
    return report


def last_report(out: Path, name: str) -> dict[str, Any] | None:
    """Return rows.json of the newest finished run of `name` beneath `out` with the system's own seed, None without
    one; unreadable ones are passed over.
    """
    for path in sorted((out / "reproduce" / name).glob("*/rows.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and isinstance(found.get("rows"), list):
                return found
    return None


def _new_folder(parent: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with _named(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for _ in range(100):
            folder = parent / f"{stamp}-{secrets.token_hex(2)}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
        raise FileExistsError(parent)


@contextlib.contextmanager
def _named(path: Path) -> Generator[None]:
    """Turn the system's error into one line that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        from ..core.errors import InputError

        raise InputError(f"cannot write to {path}: {error.strerror or error}; give another folder with --out") from None
