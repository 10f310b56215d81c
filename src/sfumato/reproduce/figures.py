"""How the figures look: one palette, light axes, labels at the lines. matplotlib loads when a figure is painted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PAPER, GRID = "#2b2a33", "#fbfaf7", "#dedbd2"
COLOURS = ("#b4532a", "#2f6f8f", "#7a6f9b", "#5f8f4e", "#c79a2b", "#8c5a6b")
STYLE: Any = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.labelsize": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "font.size": 9.5,
}


def panels(rows: int, columns: int, *, width: float = 4.2, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """Return a figure of rows x columns axes in the house style, and the axes in reading order."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    return figure, axes


def lines(
    axes: Axes, title: str, across: str, up: str, curves: dict[str, tuple[list[float], list[float]]], log: str = ""
) -> None:
    """Draw named curves of (x, y); `log` names the logarithmic axes ("x", "y", "xy")."""
    for (name, (x, y)), colour in zip(curves.items(), COLOURS, strict=False):
        axes.plot(x, y, "o-", label=name, color=colour)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8.5)


def cloud(
    axes: Axes,
    points: Any,
    title: str,
    *,
    colour: str = COLOURS[0],
    size: float = 4.0,
    span: float = 2.4,
    alpha: float = 0.55,
) -> None:
    """Draw points in the plane, square and without ticks."""
    axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, alpha=alpha, linewidths=0)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlim(-span, span)
    axes.set_ylim(-span, span)
    axes.set_aspect("equal")
    _bare(axes)


def tiles(axes: Axes, pictures: Any, columns: int, title: str) -> None:
    """Draw pictures [n, 1, H, W] in [-1, 1] as one sheet of `columns`, dark ink on light paper."""
    n, _, height, width = pictures.shape
    rows = -(-n // columns)
    sheet = pictures.new_full((rows * (height + 1) - 1, columns * (width + 1) - 1), -1.0)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = picture[0]
    axes.imshow(-sheet, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_title(title, loc="left", fontsize=11)
    _bare(axes)


def sheets(shown: Mapping[str, Any], count: int, columns: int, *, width: float, height: float) -> Figure:
    """Return a figure of named pictures [n, 1, H, W] in [-1, 1]: of each name one sheet, the first `count`."""
    figure, axes = panels(1, len(shown), width=width, height=height)
    for axis, (name, pictures) in zip(axes, shown.items(), strict=True):
        tiles(axis, pictures[:count], columns, name)
    return figure


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
