"""A contrastive model as a judge: how well pictures fit their captions, which fit best, and features for distances."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..conditioning import Words
from ..core import CheckpointError, InputError, from_config, to_config
from ..core.json_file import read_json
from ..core.weights import read_weights, specs, write_weights
from ..nets import Contrast, ContrastConfig
from .features import Extractor
from .figure import Figure

CONFIG, WEIGHTS = "judge.json", "judge.safetensors"
CHUNK = 250  # pictures at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class Judge:
    """A trained `Contrast` with the words that it was taught.

    Raises `InputError` where the network was made for another list of words.
    """

    net: Contrast
    words: Words

    def __post_init__(self) -> None:
        text = self.net.config.text
        if (text.words, text.length) != (self.words.count, self.words.length):
            raise InputError(
                f"the network reads {text.length} of {text.words} numbers, the words are "
                f"{self.words.length} of {self.words.count}: give those that it was trained with"
            )
        self.net.eval()

    def pictures(self, x: Tensor) -> Tensor:
        """Return the directions [n, features] of pictures [n, C, size, size] in [-1, 1]."""
        return self._each(self.net.picture, x)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Return the directions [n, features] of captions."""
        return self._each(self.net.words, self.words.tokens(captions))

    def cosines(self, x: Tensor, captions: Sequence[str]) -> Tensor:
        """Return the cosine [n] of each picture with its caption."""
        if len(x) != len(captions):
            raise InputError(f"{len(captions)} captions for {len(x)} pictures: give one for each")
        return (self.pictures(x) * self.texts(captions)).sum(1)

    def ranked(self, x: Tensor, caption: str) -> list[int]:
        """Return the numbers of the pictures, the one that fits `caption` best first."""
        return self.cosines(x, [caption] * len(x)).argsort(descending=True, stable=True).tolist()

    def extractor(self) -> Extractor:
        """Return the tower of pictures before its projection as a feature network, for a Frechet distance."""
        return Extractor(self.net.features, name="judge")

    @property
    def id(self) -> str:
        """The identity that figures carry: a hash of the structure and the weights."""
        return Extractor(self.net, name="judge").id

    def save(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> None:
        """Write judge.json and judge.safetensors, its weights as `dtype`, into a folder that has neither."""
        at = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if (at / name).exists():
                raise InputError(f"{at / name} exists: choose another folder or remove it")
        at.mkdir(parents=True, exist_ok=True)
        write_weights(at / WEIGHTS, {k: v.to(dtype) for k, v in self.net.state_dict().items()}, {"format": "pt"})
        document = {"net": to_config(self.net.config), "words": to_config(self.words)}
        (at / CONFIG).write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")

    @torch.no_grad()
    def _each(self, tower: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        device = self.net.start.device
        return torch.cat([tower(part.to(device)).cpu() for part in rows.split(CHUNK)])


def load_judge(folder: str | os.PathLike[str]) -> Judge:
    """Return the judge that `Judge.save` wrote, in float32; `CheckpointError` for a folder that is damaged."""
    at = Path(folder)
    data = read_json(at / CONFIG)
    try:
        config, words = from_config(data["net"], ContrastConfig), from_config(data["words"], Words)
        net = config.build()
        stored = read_weights(at / WEIGHTS)
        expected = {name: spec.shape for name, spec in specs(net.state_dict()).items()}
        if {name: spec.shape for name, spec in specs(stored).items()} != expected:
            raise InputError("its weights are not those of its configuration")
        net.load_state_dict({name: value.float() for name, value in stored.items()})
        return Judge(net=net.requires_grad_(False), words=words)
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{at / CONFIG}: {' '.join(str(error).split())[:300]}") from error


def clip_score(judge: Judge, x: Tensor, captions: Sequence[str]) -> Figure:
    """Return the mean of 2.5 max(cos(picture, caption), 0) (Hessel et al. 2021, arXiv 2104.08718, eq. 1)."""
    scores = 2.5 * judge.cosines(x, captions).clamp(min=0).double()
    return _figure(judge, "clip_score", scores, settings="2.5 max(cos, 0)")


def retrieval(
    judge: Judge, x: Tensor, captions: Sequence[str], wrong: Sequence[str] = (), *, size: int = 100
) -> list[Figure]:
    """Return R@1 and R@5 of finding a picture's caption, and a caption's picture, among `size` of each.

    Rows are taken in batches of `size` in the order given; those that fill no batch are left out. With `wrong`, a
    caption a row that is not true, a picture's caption is sought among its batch's wrong ones too. A caption that
    reads the same as the row's own counts as found. Raises `InputError` for numbers that do not fit.
    """
    n = len(x) // size * size
    if not n or len(captions) != len(x) or len(wrong) not in (0, len(x)):
        raise InputError(
            f"retrieval needs at least {size} pictures with a caption each, and as many wrong captions or none: "
            f"got {len(x)}, {len(captions)}, {len(wrong)}"
        )
    pictures, texts = judge.pictures(x[:n]), judge.texts(captions[:n])
    others = judge.texts(wrong[:n]) if wrong else None
    found: dict[str, list[Tensor]] = {}
    for start in range(0, n, size):
        part = slice(start, start + size)
        own = texts[part]
        among = own if others is None else torch.cat((own, others[part]))
        tokens = judge.words.tokens([*captions[part], *(wrong[part] if wrong else ())])
        same = (tokens[:size, None] == tokens[None]).all(-1)
        sides: dict[str, tuple[Tensor, Tensor]] = {
            "text": (pictures[part] @ among.T, same),
            "picture": (own @ pictures[part].T, same[:, :size]),
        }
        for name, (scores, right) in sides.items():
            best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
            rank = (scores.masked_fill(right, -torch.inf) >= best).sum(1)  # a tie counts against the judge
            found.setdefault(name, []).append(rank)
    kind = f"batches of {size}" + (", as many wrong captions" if wrong else "")
    ranks = {name: torch.cat(parts) for name, parts in found.items()}
    return [
        _figure(judge, f"{name}_recall_at_{k}", (rank < k).double(), settings=kind)
        for name, rank in ranks.items()
        for k in (1, 5)
    ]


def _figure(judge: Judge, name: str, values: Tensor, **more: Any) -> Figure:
    return Figure(
        name=name,
        value=float(values.mean()),
        error=float(values.std() / len(values) ** 0.5) if len(values) > 1 else None,
        better="higher",
        n=len(values),
        n_reference=0,
        network=judge.id,
        resize="none",
        reference="none",
        **more,
    )
