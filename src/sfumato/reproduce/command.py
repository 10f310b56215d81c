"""`sfumato reproduce`: check a published system's claims on this machine. Needs no torch until a system runs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .catalogue import CATALOGUE, GROUPS, Entry
from .claims import Row
from .runner import Report, execute, last_report

DESCRIPTION = "Check a published system's claims on this machine, claim by claim; --list shows all of them."
EPILOG = "example: sfumato reproduce datasaurus"
MARKS = {"pass": ("✓", "green"), "fail": ("✗", "bold red"), "not shown": ("-", "dim")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="the system's id, as --list shows it")
    parser.add_argument("--list", action="store_true", help="show every system of the catalogue with its last result")
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    parser.add_argument("--seed", type=int, metavar="N", help="another seed than the protocol's")
    parser.add_argument("--fresh", action="store_true", help="train again what an earlier run kept")


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0 when all rows pass, 1 when one fails. Raises `InputError` for an unknown name."""
    if args.list or args.name is None:
        _list(args.out, args.json)
        return 0
    entry = _find(args.name)
    import torch

    torch.set_num_threads(1)  # tensors of points are slower on two, and the figures must not depend on the machine
    progress = _Progress()
    try:
        report = execute(
            entry.load(),
            out=args.out,
            fresh=args.fresh,
            seed=args.seed,
            progress=progress,
            on_row=progress.row(args.json),
        )
    finally:
        progress.close()
    if args.json:
        print(json.dumps(report.as_json(), ensure_ascii=False, allow_nan=False))
    else:
        _print(report)
    return 0 if report.passed else 1


def main(argv: list[str] | None = None) -> int:
    """Run the command from the words `argv`."""
    parser = argparse.ArgumentParser("sfumato reproduce", description=DESCRIPTION, epilog=EPILOG)
    add_arguments(parser)
    return run(parser.parse_args(argv))


def _find(name: str) -> Entry:
    entry = CATALOGUE.get(name)
    if entry is not None and entry.exists:
        return entry
    from ..core.errors import InputError, nearest

    if entry is None:
        raise InputError(f"no system is called {name!r}{nearest(name, CATALOGUE)}")
    there = ", ".join(e.id for e in CATALOGUE.values() if e.exists)
    raise InputError(f"{name!r} is in the catalogue but not reproduced yet; these are: {there}")


def _standing(entry: Entry, out: Path) -> dict[str, Any]:
    """Return the entry with its last result."""
    facts = {"id": entry.id, "year": entry.year, "arxiv": entry.arxiv, "title": entry.title}
    if not entry.exists:
        return facts | {"result": "missing"}
    last = last_report(out, entry.id)
    if last is None:
        return facts | {"result": "not run"}
    count = {status: sum(row.get("status") == status for row in last["rows"]) for status in MARKS}
    return facts | {"result": "fail" if count["fail"] else "pass", "count": count, "when": last.get("when")}


def _list(out: Path, as_json: bool) -> None:
    groups = {name: [_standing(entry, out) for entry in group] for name, group in GROUPS.items()}
    if as_json:
        systems = [{"group": name, **facts} for name, group in groups.items() for facts in group]
        print(json.dumps({"systems": systems}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    for name, group in groups.items():
        console.print(f"[bold]{name}[/]")
        for facts in group:
            verdict, colour = _verdict(facts)
            start = f"  {facts['id']:<24}[{colour}]{verdict:<27}[/]{facts['year']}  "
            console.print(start + escape(facts["title"]), no_wrap=True, overflow="ellipsis")  # the title gives way


def _verdict(facts: dict[str, Any]) -> tuple[str, str]:
    """Return (what the last run found, its colour)."""
    if "count" not in facts:
        return facts["result"], "dim"
    parts = [f"{n} {status}" for status, n in facts["count"].items() if n and status != "not shown"]
    return f"{', '.join(parts)} {str(facts['when'])[:10]}", MARKS[facts["result"]][1]


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(header_style="bold", show_lines=True, expand=True)
    table.add_column("", width=1)
    table.add_column("the paper claims", ratio=5)
    table.add_column("it reports", ratio=3)
    table.add_column("measured here", ratio=5)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("bar", no_wrap=True)
    for row in report.rows:
        mark, colour = MARKS[row.status]
        here = row.note if row.status == "not shown" else f"{row.measure}\n[dim]{escape(row.note)}[/]".strip()
        value = "" if row.value is None else f"[{colour}]{row.value:.4g}[/]"
        table.add_row(f"[{colour}]{mark}[/]", escape(row.says), escape(row.reported), here, value, row.bar)
    out = Console()
    source = f"arXiv {report.arxiv}" if report.arxiv else "no arXiv id"
    out.print(f"[bold]{report.system}[/]  {escape(report.title)} ({source})")
    out.print(f"[dim]{escape(report.protocol)} Seed {report.seed}.[/]")
    out.print(table)
    counts = ", ".join(f"{sum(r.status == s for r in report.rows)} {s}" for s in MARKS)
    out.print(f"{counts}; {report.seconds:.0f} s ({report.cpu_seconds:.0f} s of CPU)")
    if report.folder is not None:
        out.print(f"figures and rows.json: {report.folder}", soft_wrap=True)


class _Progress:
    """Progress on standard error: a live line on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, every: float = 5.0) -> None:
        self.live = sys.stderr.isatty()
        self.every = every
        self.began = self.last = time.monotonic()

    def __call__(self, what: str, share: float | None) -> None:
        """Say that `what` is going on, and how much of it is done (0 to 1) where that is known."""
        now = time.monotonic()
        if now - self.last < (0.1 if self.live else self.every):
            return
        self.last = now
        bar = "" if share is None else f" {'━' * round(20 * share):┄<20} {100 * share:3.0f} %"
        line = f"{now - self.began:5.0f} s  {what}{bar}"
        print(f"\r\x1b[K{line}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def row(self, quiet: bool) -> Any:
        """Return the callback that shows a row as soon as it is known; None for `quiet`."""
        if quiet:
            return None

        def show(row: Row) -> None:
            self.close()
            value = "" if row.value is None else f"{row.value:.4g} "
            print(f"{MARKS[row.status][0]} {row.key}: {value}({row.bar})", file=sys.stderr, flush=True)

        return show

    def close(self) -> None:
        """End the live line."""
        if self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
