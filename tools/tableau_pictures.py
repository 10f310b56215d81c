"""Paint the pictures of docs/tableau.md: python tools/tableau_pictures.py docs/images"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import sfumato as sf
from sfumato.data.tableau import COLOURS, EVALUATION, SHAPES, Tableau, paint, sample_scenes, scene
from sfumato.data.tableau.creatures import identities, paint_creatures, sample_creatures
from sfumato.data.tableau.defects import blur, near_copy, watermark
from sfumato.data.tableau.derived import classes, depth, edges, keypoint_maps
from sfumato.data.tableau.moving import TableauFilms
from sfumato.data.tableau.pairs import TableauEdits
from sfumato.data.tableau.scene import TEXTURES, cat
from sfumato.pipeline.images import contact_sheet

SIDE = 64


def sheet(pictures: Tensor, columns: int) -> Image.Image:
    """Return pictures float32[n, 3, S, S] in [-1, 1] on one sheet."""
    levels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte()
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in levels]
    return contact_sheet(images, columns)


def vocabulary() -> Tensor:
    """Return every shape in a colour of its own, large, then every texture, small, on one ground."""
    at = {"x": 0.5, "y": 0.5}
    shapes = [at | {"shape": s, "colour": COLOURS[k % len(COLOURS)], "size": "large"} for k, s in enumerate(SHAPES)]
    small = [
        at | {"shape": s, "colour": COLOURS[(k + 3) % len(COLOURS)], "size": "medium", "texture": TEXTURES[1 + k % 3]}
        for k, s in enumerate(SHAPES)
    ]
    return paint(cat([scene([o], {"colours": ["grey"]}) for o in (*shapes, *small)]), SIDE)


def maps() -> Tensor:
    """Return rows of picture, classes, depth, edges and keypoints."""
    scenes = sample_scenes(range(40, 400))
    scenes = scenes[(scenes.count > 2).nonzero()[:8, 0]]
    grey = [classes(scenes, SIDE)[:, None] / len(SHAPES), depth(scenes, SIDE), edges(scenes, SIDE)]
    points = keypoint_maps(scenes, SIDE, 1.5)
    colour = torch.stack([points[:, 0], points[:, 1], points[:, 2:].amax(1)], 1)
    return torch.cat([paint(scenes, SIDE), *(2 * g.expand(-1, 3, -1, -1) - 1 for g in grey), 2 * colour - 1])


def edits() -> Tensor:
    """Return eight sources, and what each became below it."""
    batch = TableauEdits(seed=EVALUATION).batch(range(8), sf.Noise(range(8)))
    return torch.cat([batch.cond["source"], batch.x0])


def creatures() -> Tensor:
    """Return four characters, a row each, in eight poses."""
    who = identities(range(4)).repeat_interleave(8, 0)
    return paint_creatures(sample_creatures(range(32), who), SIDE)


def films() -> Tensor:
    """Return two films, a row each."""
    films = TableauFilms(side=SIDE, seed=EVALUATION).batch([2, 7], sf.Noise(range(2))).x0[:, :, ::2]
    return films.transpose(1, 2).flatten(0, 1)


def defects() -> Tensor:
    """Return pictures; below them near copies, watermarked and blurred ones."""
    noise = sf.Noise(range(8))
    x = Tableau(seed=EVALUATION, styles=(), weights=()).batch(range(8), noise).x0
    return torch.cat([x, near_copy(x, noise), watermark(x, noise), blur(x)])


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    world = replace(Tableau(seed=EVALUATION), styles=(), weights=())
    pictures = {
        "tableau": (world.batch(range(32), sf.Noise(range(32))).x0, 8),
        "tableau-vocabulary": (vocabulary(), len(SHAPES)),
        "tableau-maps": (maps(), 8),
        "tableau-edits": (edits(), 8),
        "tableau-creatures": (creatures(), 8),
        "tableau-films": (films(), 8),
        "tableau-defects": (defects(), 8),
    }
    for name, (x, columns) in pictures.items():
        sheet(x, columns).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
