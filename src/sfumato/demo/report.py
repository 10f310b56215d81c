"""The demo's page: one self-contained HTML file, `page.html` filled in."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from string import Template
from typing import Any

from ..measure import Memorisation
from .scores import Row


@dataclass(frozen=True, kw_only=True)
class Page:
    """What goes on the page: data URLs of PNGs, SVG texts, rows and facts."""

    facts: Mapping[str, str]
    grid: str
    strip: str
    loss: str
    neighbours: str
    distances: str
    rows: Sequence[Row]
    memorisation: Memorisation
    commands: Sequence[str]
    settings: str
    second: str = ""


def render(page: Page) -> str:
    """Return the HTML text."""
    template = Template(resources.files("sfumato.demo").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        chips="".join(f"<span>{html.escape(k)}: <b>{html.escape(v)}</b></span>" for k, v in page.facts.items()),
        rows="".join(map(_row, page.rows)),
        copying=_copying(page.memorisation),
        commands=html.escape("\n".join(page.commands)),
        settings=html.escape(page.settings),
        **{name: getattr(page, name) for name in ("grid", "strip", "loss", "distances", "neighbours", "second")},
    )


def results(rows: Sequence[Row], near: Memorisation) -> dict[str, Any]:
    """Return the figures as plain data."""
    return {
        "rows": [asdict(row) for row in rows],
        "memorisation": {
            "quantiles": {str(q): list(v) for q, v in near.quantiles.items()},
            "closer": float(near.closer),
            "critical": near.critical,
            "copies": float(near.copies),
        },
    }


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.3g}" if value >= 100 else f"{value:.3f}"


def _row(row: Row) -> str:
    cells = "".join(f"<td>{_number(v)}</td>" for v in (row.model, row.perfect, row.trivial))
    arrow = "↑" if row.better == "higher" else "↓"
    name = f"{html.escape(row.name)} {arrow}<small>{html.escape(row.explanation)}</small>"
    bar = ""
    if row.passed is not None:
        verdict, kind = ("reached", "good") if row.passed else ("missed", "bad")
        bar = f'<span class="{kind}">{verdict}</span><small>{html.escape(row.bar)}</small>'
    return f"<tr><td>{name}</td>{cells}<td>{bar}</td></tr>"


def _copying(near: Memorisation) -> str:
    quantiles = "".join(
        f"<tr><td>{100 * q:g} %</td><td>{a:.3f}</td><td>{b:.3f}</td></tr>" for q, (a, b) in near.quantiles.items()
    )
    same = float(near.closer) <= near.critical
    verdict, kind = ("no copying", "good") if same else ("nearer than unseen scans are", "bad")
    return (
        f'<p><span class="{kind}">{verdict}</span>: at no distance are more than {100 * float(near.closer):.1f} % more '
        f"of the samples that near than of the held-out scans (chance alone: up to {100 * near.critical:.1f} %). "
        f"{100 * float(near.copies):.1f} % of the samples are nearer than the nearest {100 * near.level:g} % of the "
        "held-out scans.</p>"
        f"<table><tr><th>quantile of the distance</th><th>samples</th><th>held-out</th></tr>{quantiles}</table>"
    )
