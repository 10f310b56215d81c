"""The training of a codec, and what it is worth: how near its reconstructions are, and how its codes are used."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..codecs import DVAE, VAE, Codec, VQModel, load_codec
from ..codecs.learning import CodecConfig, CodecObjective, Coding, evidence, usage
from ..core import InputError, Noise, register
from ..data import Dataset
from ..measure import Figure, psnr, ssim
from ..pipeline.images import Pixels, contact_sheet
from ..train import Result, Run, TrainConfig, Trainer
from .evaluation import Say, held_out, rows
from .recipe import Training, recipe_of
from .run import averaged
from .start import Start

CHUNK = 64  # pictures at a time


@register
@dataclass(frozen=True, kw_only=True)
class CodecRecipe(Training):
    """Pictures, the codec, the objective that trains it, how to train.

    `judged`: the pictures that it is measured on, those held out of `data` by default (all where there are none).
    `start`: a codec (a run, or a folder of `save_codec`) to go on from.
    Raises `InputError` where the objective does not train such a codec, when they are put together.
    """

    data: Dataset
    codec: CodecConfig
    objective: CodecObjective
    train: TrainConfig
    judged: Dataset | None = None
    start: Start = field(default_factory=Start)

    def model(self) -> Coding:
        """Return the untrained model; its initial weights follow from `train.seed`."""
        return Coding.start(self.codec, self.objective, self.train.seed)

    def fit(self, run: Run | None = None, *, quiet: bool = False) -> tuple[Trainer[Coding], Result]:
        """Train, and write grids to the run: eight pictures above what the codec makes of them."""
        model = self.model()
        if run is None or not any(run.checkpoints.iterdir()):  # a run that goes on has weights of its own
            self.start.give(model.codec, lambda path: _codec(path).state_dict())
        shown = self.data.batch(range(min(8, len(self.data))), Noise(range(min(8, len(self.data))))).x0
        _takes(model.codec, shown)

        def samples(current: Coding, path: Path) -> None:
            made = current.codec.decode(current.codec.encode(shown)).clamp(-1, 1)
            contact_sheet(Pixels().images(torch.cat((shown, made))), len(shown)).save(path)

        drawn = None if run is None else samples
        trainer = Trainer(model, self.objective, self.data, self.train, run, samples=drawn, quiet=quiet)
        return trainer, trainer.train()


def judged(recipe: CodecRecipe) -> Dataset:
    """Return the pictures that the codec of `recipe` is measured on."""
    return recipe.judged or held_out(recipe.data) or recipe.data


def codec_of_run(path: str | Path) -> Codec:
    """Return the codec of a training run in evaluation mode, averaged weights where the run keeps them.

    Raises `CheckpointError` where there is no whole checkpoint, `InputError` for the run of something else.
    """
    run = Run(path)
    recipe = recipe_of(run)
    if not isinstance(recipe, CodecRecipe):
        raise InputError(f"{run.path} is the run of a {type(recipe).__name__}, which trains no codec")
    model = recipe.model()
    model.net.load_state_dict(averaged(run, model.net, recipe.train))
    return model.codec.eval().requires_grad_(False)


def _codec(path: str) -> Codec:
    return codec_of_run(path) if (Path(path) / "config.json").is_file() else load_codec(path, torch.float32)


@torch.no_grad()
def reconstruction(
    codec: Codec, data: Dataset, n: int, seed: int = 0, say: Say = lambda what, done, of: None
) -> list[Figure]:
    """Return what `codec` keeps of at most `n` rows of `data`.

    PSNR and SSIM of decode(encode(x)), clamped to [-1, 1], each a mean over pictures with its standard error; of codes
    the share that is used and the perplexity; of a VAE the bound on the bits per dimension. Pictures smaller than the
    window of SSIM have none.
    """
    x = rows(data, n).x0
    _takes(codec, x[:1])
    found: dict[str, list[Tensor]] = {}
    codes: list[Tensor] = []
    for start in range(0, len(x), CHUNK):
        some = x[start : start + CHUNK]
        latents = codec.encode(some)
        noise = Noise(range(seed + start, seed + start + len(some)))
        made = codec.decode(latents, noise if codec.draws else None).clamp(-1, 1)
        found.setdefault("psnr", []).append(psnr(some, made))
        if min(some.shape[-2:]) >= 11:
            found.setdefault("ssim", []).append(ssim(some, made))
        if isinstance(codec, VQModel | DVAE):
            codes.append(codec.indices(latents))
        if isinstance(codec, VAE):
            nats, kl = evidence(codec, some, noise, data.bin)
            found.setdefault("bound", []).append((nats + kl) / (some[0].numel() * math.log(2)))
        say("reconstructing", min(start + CHUNK, len(x)), len(x))
    about: dict[str, Any] = {"n": len(x), "n_reference": 0, "resize": "none", "reference": data.fingerprint}
    about["network"] = type(codec).__name__
    figures = [_mean(name, torch.cat(values), about) for name, values in found.items()]
    if codes:
        count = cast(Any, codec).config.codes
        used, perplexity = usage(torch.cat(codes), count)
        figures.append(Figure(name="codes_used", value=used, better="higher", settings=f"{count} codes", **about))
        figures.append(Figure(name="perplexity", value=perplexity, better="higher", settings=f"{count} codes", **about))
    return figures


def _mean(name: str, values: Tensor, about: dict[str, Any]) -> Figure:
    """Return the mean over pictures with its standard error."""
    values = values.double()
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
    better = "lower" if name == "bound" else "higher"
    return Figure(name=name, value=float(values.mean()), error=error, better=better, **about)


def _takes(codec: Codec, x: Tensor) -> None:
    """Refuse, before a step is made, pictures that the codec does not take."""
    try:
        with torch.no_grad():
            made = codec.decode(codec.encode(x), Noise(range(len(x))) if codec.draws else None)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the codec does not take pictures of shape {tuple(x.shape[1:])}: {reason}") from error
    if made.shape != x.shape:
        raise InputError(f"the codec makes pictures of shape {tuple(made.shape[1:])} of {tuple(x.shape[1:])}")
