"""The demo's pictures, as data for a self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..measure import Memorisation
from ..measure.distances import squared_distances
from ..pipeline.images import Pixels, contact_sheet

INK, ACCENT, SOFT = "#1f2430", "#b4532a", "#8a93a6"


def png(image: Image.Image) -> str:
    """Return a picture as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def sheet(x: Tensor, columns: int, least: int = 56) -> Image.Image:
    """Return samples [B, 1, H, W] on one sheet."""
    return contact_sheet(Pixels().images(x), columns, least)


def labelled(rows: Sequence[tuple[str, Tensor]], columns: int) -> Image.Image:
    """Return one row of pictures for each (label, samples), with the label to its left."""
    sheets = [(label, sheet(x, columns)) for label, x in rows]
    margin = 96
    height = sum(s.height for _, s in sheets)
    page = Image.new("L", (margin + sheets[0][1].width, height), 255)
    draw, top = ImageDraw.Draw(page), 0
    for label, s in sheets:
        draw.text((8, top + s.height // 2 - 7), label, fill=60, font_size=14)
        page.paste(s, (margin, top))
        top += s.height
    return page


def neighbours(samples: Tensor, train: Tensor, count: int) -> list[tuple[str, Tensor]]:
    """Return rows: the samples, then their nearest training scans by pixel distance, nearest first."""
    order = squared_distances(samples.flatten(1).double(), train.flatten(1).double()).topk(count, largest=False).indices
    names = ["nearest scan", *(f"{i}. nearest" for i in range(2, count + 1))]
    return [("sample", samples), *((name, train[order[:, i]]) for i, name in enumerate(names))]


def _plot(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color="#e6e8ee", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import pyplot

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def loss_curve(history: Sequence[dict[str, Any]]) -> str:
    """Return the loss against the step as SVG."""
    figure, axes = _plot(5.2, 2.9)
    axes.plot([h["step"] for h in history], [h["loss"] for h in history], color=ACCENT, linewidth=2)
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel("loss (v-prediction)", color=INK)
    return _svg(figure)


def distance_curves(near: Memorisation) -> str:
    """Return the distribution functions of nearest-training-scan distances, samples and held-out scans, as SVG."""
    figure, axes = _plot(5.2, 2.9)
    for values, colour, label in (
        (near.held_out, SOFT, "held-out scans"),
        (near.samples, ACCENT, "samples"),
    ):
        share = torch.arange(1, len(values) + 1) / len(values)
        axes.step(values.tolist(), share.tolist(), color=colour, linewidth=2, where="post", label=label)
    axes.set_xlabel("distance to the nearest training scan", color=INK)
    axes.set_ylabel("share below", color=INK)
    axes.legend(frameon=False, fontsize=9)
    return _svg(figure)
