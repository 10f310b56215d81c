"""LoRA files: peft's and diffusers' names, older ones, kohya's for every family, LoCon, DoRA, LoHa and LoKr.

A file's names are looked up among those of the model's own modules, never rewritten: the links of a network's layouts
say which of our layers, and which rows of its matrix, a module of theirs is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..control.lora import KINDS, Adapter, LoRA
from ..core.errors import CheckpointError, InputError
from ..core.weights import read_whole, write_weights
from ..nets.latent_unet import LatentUNet
from . import lycoris
from .links import Link
from .lora_names import Parsed, gathered, original_links, their_links
from .lora_settings import settings_of


class Place(NamedTuple):
    """What of our matrix a module of theirs is: rows `ours` of the layer are its rows `theirs`; None: all, in order.

    `row`: the shape of one row of theirs, whose numbers are those of ours in the same order.
    """

    layer: str
    ours: Tensor | None
    theirs: Tensor | None
    row: torch.Size


Places = Mapping[str, Sequence[Place]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """A network or a text encoder that adapters are for, by all names that files have for its modules.

    `dotted`: path in diffusers -> places; `kohya`: the paths that kohya's files have with underscores; `aliases`:
    further ones. `prefixes`: what stands before a dotted path ("unet."), `tags` before one with underscores
    ("lora_unet_"); the first of each is the one that is written.
    """

    module: nn.Module
    prefixes: tuple[str, ...]
    tags: tuple[str, ...]
    dotted: Places
    kohya: Places
    aliases: Places

    def named(self, module: str) -> tuple[str, str, Sequence[Place]] | None:
        """Return (prefix, path, places) of a module's name in a file, None where this part has no such module."""
        for tag in self.tags:
            if module.startswith(tag) and (at := self._underscored.get(module[len(tag) :])):
                return tag, module[len(tag) :], at
        for prefix in self.prefixes:
            path = module[len(prefix) :]
            if module.startswith(prefix) and (at := self.dotted.get(path, self.aliases.get(path))):
                return prefix, path, at
        return None

    @cached_property
    def _underscored(self) -> dict[str, Sequence[Place]]:
        tables = (self.aliases, self.dotted, self.kohya)
        return {path.replace(".", "_"): at for table in tables for path, at in table.items()}


def network_part(net: nn.Module) -> Part:
    """Return a network's part; `InputError` for one that no other library has."""
    prefixes = ("unet.", "transformer.") if "UNet" in type(net).__name__ else ("transformer.", "unet.")
    dotted, original = places(net, their_links(net)), places(net, original_links(net))
    at_diffusers = isinstance(net, LatentUNet) and not net.config.sizes  # kohya trains 1 and 2 there, XL in its own
    return Part(
        module=net,
        prefixes=(*prefixes, ""),
        tags=("lora_unet_", "lora_transformer_"),
        dotted=dotted,
        kohya=original if original and not at_diffusers else dotted,
        aliases=original,
    )


def tower_part(model: nn.Module, number: int, *, alone: bool = True) -> Part:
    """Return the part of text encoder `number` (from 1): its names are those of transformers.

    `alone`: whether it is the only one of its model. Files for such models have `lora_te_`, others count: the first
    encoder of XL is that of version 1 as well, for which a file of version 1 was not made.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, KINDS)}
    own = {n: [Place(n, None, None, m.weight.shape[1:])] for n, m in layers.items()}
    named, aliases = own, own
    if type(model).__name__.startswith("CLIP"):  # whose inner name is in files, and not always in the model
        aliases = {n.removeprefix("text_model."): at for n, at in own.items()}
        named = {n if n == "text_projection" else "text_model." + n: at for n, at in aliases.items()}
    first = number == 1
    return Part(
        module=model,
        prefixes=("text_encoder." if first else f"text_encoder_{number}.",),
        tags=("lora_te_", "lora_te1_") if first and alone else (f"lora_te{number}_",),
        dotted=named,
        kohya=named,
        aliases=aliases,
    )


def places(net: nn.Module, links: Iterable[Link]) -> dict[str, list[Place]]:
    """Return module path of theirs -> places, for those links that move rows of matrices and do nothing else."""
    layers = {name + ".weight": m for name, m in net.named_modules() if isinstance(m, KINDS)}
    found: dict[str, list[Place]] = {}
    for link in links:
        if not link.ours or not all(name in layers for name in link.ours):
            continue
        weights = [layers[name].weight for name in link.ours]
        try:
            theirs = [t.shape for t in link.write([torch.empty(w.shape, device="meta") for w in weights])]
            rows = _traced(link, [shape[0] for shape in theirs], weights)
        except (RuntimeError, IndexError, CheckpointError):
            continue
        for name, origin in zip(link.ours, rows, strict=True):
            start = 0
            for path, shape in zip(link.theirs, theirs, strict=True):
                ours = ((origin >= start) & (origin < start + shape[0])).nonzero().flatten()
                their = origin[ours] - start
                start += shape[0]
                if not len(ours):
                    continue
                whole = len(ours) == len(origin) == shape[0] and torch.equal(their, ours)
                pair = (None, None) if whole else (ours, their)
                found.setdefault(path.removesuffix(".weight"), []).append(Place(name[:-7], *pair, shape[1:]))
    return found


def _traced(link: Link, theirs: list[int], weights: list[Tensor]) -> list[Tensor]:
    """Return for each of our matrices which row, counted over all of theirs, each of its rows is."""
    starts = [sum(theirs[:i]) for i in range(len(theirs))]
    for rank in (2, 4):  # a link may take matrices, or convolutions alone
        marks = [torch.arange(n).add(s).reshape(n, *[1] * (rank - 1)) for n, s in zip(theirs, starts, strict=True)]
        try:
            rows = link.read(marks)
        except (RuntimeError, IndexError):
            continue
        if all(r.numel() == len(r) == len(w) for r, w in zip(rows, weights, strict=True)):
            return [r.flatten() for r in rows]
    raise IndexError(f"{link.theirs[0]} is not made of rows")


@dataclass(frozen=True, eq=False)
class Found:
    """What a file holds for each part, and the names of its tensors that no part has a module for."""

    loras: Mapping[str, LoRA]
    unmatched: tuple[str, ...]


def read_lora(path: str | Path, parts: Mapping[str, Part]) -> Found:
    """Return what a LoRA file, or a folder that holds one, has for `parts`.

    Raises `InputError` for a file of which nothing fits, that would change nothing, or whose shapes do not fit (it was
    made for another model), and for kinds of adapters that are not read; `CheckpointError` for a damaged one.
    """
    file = _file(Path(path))
    tensors, metadata = read_whole(file)
    settings = settings_of(file, metadata)
    modules = gathered(tensors, str(file))
    adapters: dict[str, dict[str, list[Adapter]]] = {}
    unmatched: list[str] = []
    for module, held in modules.items():
        hits = [(name, hit) for name, part in parts.items() if (hit := part.named(module)) is not None]
        if not hits:
            unmatched += held.names.values()
            continue
        name, (prefix, local, at) = hits[0]
        size = _size(at, parts[name].module)
        adapter = _adapter(held, _scale(held, settings, prefix, local), size, str(file))
        for place in at:
            fitted = _placed(adapter, place, parts[name].module, next(iter(held.names.values())), str(file))
            adapters.setdefault(name, {}).setdefault(place.layer, []).append(fitted)
    if not adapters:
        raise InputError(f"{file} fits nothing here ({len(unmatched)} tensors, first {unmatched[0]!r:.120}): "
                         "it was made for another model")  # fmt: skip
    loras = {name: LoRA({layer: tuple(a) for layer, a in found.items()}) for name, found in adapters.items()}
    if all(a.idle for lora in loras.values() for group in lora.adapters.values() for a in group):
        raise InputError(f"{file} would change nothing: all of its products are zero")
    return Found(loras, tuple(unmatched))


def write_lora(path: str | Path, loras: Mapping[str, LoRA], parts: Mapping[str, Part], form: str = "peft") -> None:
    """Write LoRAs to a new safetensors file that other tools read.

    `form`: "peft", the names of diffusers and peft, scales folded into the second matrix; or "kohya", underscores and
    alphas, in the authors' names where these are others. Raises `InputError` for another form, a file that is there
    already, and adapters that the form cannot hold.
    """
    path = Path(path)
    if form not in ("peft", "kohya"):
        raise InputError(f"no form of LoRA files is called {form!r:.40} (known: peft, kohya)")
    if path.exists():
        raise InputError(f"{path} is there already; nothing is overwritten, give a new name")
    tensors: dict[str, Tensor] = {}
    for name, lora in loras.items():
        part = parts[name]
        table = part.kohya if form == "kohya" else part.dotted
        reached = {place.layer for at in table.values() for place in at}
        if lost := sorted(lora.adapters.keys() - reached):
            raise InputError(f"{form} has no name for the layer {lost[0]!r} of {name}")
        for module, at in table.items():
            adapter = _gathered(lora, at, part.module, module)
            if adapter is not None:
                tensors |= (_as_peft if form == "peft" else _as_kohya)(part, module, adapter)
    write_weights(path, tensors, {"format": "pt"})


def _file(path: Path) -> Path:
    """Return the weights' file: `path`, or the one in the folder `path`."""
    if path.is_dir():
        known = [path / n for n in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")]
        found = next((f for f in known if f.is_file()), None)
        if found is None:
            raise InputError(f"{path} holds none of {', '.join(f.name for f in known)}")
        return found
    if not path.is_file():
        raise InputError(f"there is no LoRA file {path}")
    if path.suffix.lower() != ".safetensors":
        raise InputError(
            f"{path} is not a safetensors file, and pickles are never read: convert it, "
            f"`sfumato convert {path.name} {path.stem}.safetensors --allow-pickle`"
        )
    return path


def _scale(held: Parsed, settings: Mapping[str, Any], prefix: str, local: str) -> float:
    """Return alpha / r: of the tensor `alpha`, else of the settings (peft's rules), else 1."""
    rank = len(held.tensors["down"]) if "down" in held.tensors else lycoris.rank(held.tensors)
    if "alpha" in held.tensors and rank:
        return _finite(held.tensors["alpha"].float().flatten()[0].item(), local) / rank
    alpha = settings.get(prefix + ("lora_alpha" if "down" in held.tensors else "alpha"))
    rank = rank or settings.get(prefix + "r")
    if alpha is None or not isinstance(rank, int) or rank < 1:
        return 1.0
    for pattern, value in (settings.get(prefix + "alpha_pattern") or {}).items():
        literal = pattern.removeprefix("^")
        if local == literal or (literal == pattern and local.endswith("." + literal)):
            alpha = value
            break
    root = settings.get(prefix + "use_rslora")
    return _finite(alpha, local) / (math.sqrt(rank) if root else rank)


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CheckpointError(f"the alpha of {name} is {value!r:.40}, which is no number")
    return float(value)


def _size(at: Sequence[Place], module: nn.Module) -> tuple[int, int]:
    """Return (rows, numbers of a row) of a module of theirs."""
    rows = [
        len(cast(Tensor, module.get_submodule(p.layer).weight)) if p.theirs is None else int(p.theirs.max()) + 1
        for p in at
    ]
    return max(rows), at[0].row.numel()


def _adapter(held: Parsed, scale: float, size: tuple[int, int], file: str) -> Adapter:
    """Return the adapter of a module's tensors; LoCon's middle convolution becomes a part of `down`."""
    magnitude, mid = held.tensors.get("magnitude"), held.tensors.get("mid")
    if "down" in held.tensors:
        down, up = held.tensors["down"], held.tensors["up"]
    else:
        try:
            up, down = lycoris.factors(held.tensors, *size)
        except RuntimeError as error:
            raise InputError(
                f"{file}: the tensors beside {next(iter(held.names.values()))!r:.120} make no matrix of "
                f"{size[0]} x {size[1]}: it was made for another model"
            ) from error
    if up.numel() != len(up) * len(down) or (mid is not None and mid.shape[:2] != (len(down), len(down))):
        shapes = " ".join(str(list(t.shape)) for t in held.tensors.values())
        name = next(iter(held.names.values()))
        raise CheckpointError(f"{file}: the tensors beside {name!r:.120} do not go together: {shapes}")
    if mid is not None:
        down = torch.einsum("ijkl,jr->irkl", mid.float(), down.flatten(1).float()).to(down.dtype)
    if magnitude is not None:
        if magnitude.numel() != len(up):
            raise InputError(f"{file}: {held.names['magnitude']!r:.120} is not one number a row: not supported")
        magnitude = magnitude.flatten()
    return Adapter(down=down, up=up.flatten(1), scale=scale, magnitude=magnitude)


def _placed(adapter: Adapter, place: Place, module: nn.Module, key: str, file: str) -> Adapter:
    """Return the adapter of our layer; `InputError` where its shapes are not those of the layer."""
    weight = cast(Tensor, module.get_submodule(place.layer).weight)
    up, magnitude, row = adapter.up, adapter.magnitude, adapter.down.shape[1:]
    rows = len(weight) if place.theirs is None else len(place.theirs)
    short = (*row, *(1 for _ in range(len(place.row) - len(row))))  # a 1x1 convolution is a matrix as well
    fits = short == place.row or row == (*place.row, *(1 for _ in range(len(row) - len(place.row))))
    fits = fits or row == (place.row.numel(),)  # flat
    if not fits or (len(up) != rows if place.theirs is None else len(up) <= int(place.theirs.max())):
        raise InputError(
            f"{file}: {key!r:.120} is for a layer of {len(up)} x {list(row)}, here it is {rows} x {list(place.row)}: "
            "it was made for another model"
        )
    if place.theirs is not None:
        up = up[place.theirs]
        magnitude = None if magnitude is None else magnitude[place.theirs]
    down = adapter.down.reshape(len(adapter.down), *weight.shape[1:])
    return Adapter(down=down, up=up, scale=adapter.scale, magnitude=magnitude, rows=place.ours)


def _gathered(lora: LoRA, at: Sequence[Place], module: nn.Module, path: str) -> Adapter | None:
    """Return the adapter of a module of theirs, None where ours have nothing for it."""
    pieces: list[tuple[Adapter, Tensor, Tensor]] = []  # (adapter, its rows, theirs)
    total = 0
    for place in at:
        size = len(cast(Tensor, module.get_submodule(place.layer).weight))
        ours = torch.arange(size) if place.ours is None else place.ours
        theirs = torch.arange(size) if place.theirs is None else place.theirs
        total += len(ours)
        for adapter in lora.adapters.get(place.layer, ()):
            rows = torch.arange(size) if adapter.rows is None else adapter.rows
            inside = torch.isin(rows, ours)
            if bool(inside.any()):
                pieces.append((adapter, inside.nonzero().flatten(), theirs[torch.searchsorted(ours, rows[inside])]))
    if not pieces:
        return None
    row = at[0].row
    downs = [adapter.down.reshape(len(adapter.down), *row) for adapter, *_ in pieces]
    if len(pieces) == 1 and torch.equal(pieces[0][2], torch.arange(total)):
        adapter, own, _ = pieces[0]
        m = adapter.magnitude
        return Adapter(down=downs[0], up=adapter.up[own], scale=adapter.scale, magnitude=None if m is None else m[own])
    dtype = pieces[0][0].up.dtype
    up = torch.zeros(total, sum(len(down) for down in downs))
    magnitude, start = torch.full((total,), torch.nan), 0
    for (adapter, own, theirs), down in zip(pieces, downs, strict=True):
        up[theirs, start : start + len(down)] = adapter.up[own].float() * adapter.scale
        start += len(down)
        if adapter.magnitude is not None:
            magnitude[theirs] = adapter.magnitude[own].float()
    stretched = [adapter.magnitude is not None for adapter, *_ in pieces]
    if any(stretched) and (not all(stretched) or bool(magnitude.isnan().any())):
        raise InputError(f"{path}: some of its rows have a magnitude (DoRA) and others do not, which no file can hold")
    return Adapter(down=torch.cat(downs), up=up.to(dtype), magnitude=magnitude if any(stretched) else None)


def _as_peft(part: Part, path: str, adapter: Adapter) -> dict[str, Tensor]:
    stem, wide = part.prefixes[0] + path, adapter.down.ndim == 4
    up = (adapter.up.float() * adapter.scale).to(adapter.up.dtype)
    found = {f"{stem}.lora_A.weight": adapter.down, f"{stem}.lora_B.weight": up[:, :, None, None] if wide else up}
    m = adapter.magnitude
    return found if m is None else found | {f"{stem}.lora_magnitude_vector": m[None, :, None, None] if wide else m}


def _as_kohya(part: Part, path: str, adapter: Adapter) -> dict[str, Tensor]:
    stem, wide = part.tags[0] + path.replace(".", "_"), adapter.down.ndim == 4
    found = {
        f"{stem}.lora_down.weight": adapter.down,
        f"{stem}.lora_up.weight": adapter.up[:, :, None, None] if wide else adapter.up,
        f"{stem}.alpha": torch.tensor(adapter.scale * len(adapter.down)),
    }
    m = adapter.magnitude
    return found if m is None else found | {f"{stem}.dora_scale": m.reshape(-1, *(1 for _ in adapter.down.shape[1:]))}
