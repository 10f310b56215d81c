"""What is measured: sets of feature vectors that know which network, resize filter and rows they come from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..core import CheckpointError, InputError, Noise
from ..core.weights import read_whole, write_weights
from .figure import Figure
from .statistics import Moments, Statistics

POINTS = "identity"  # the network of plain points


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSet:
    """Features of n samples: the samples' side and the reference's side of every metric.

    `network` and `resize` say how the features were made, `hash` is the sha256 of the rows in order, so that figures
    against different references are told apart. `values` are the rows [n, d]; None where only their moments were
    kept, which is all that the Frechet distance needs.
    """

    n: int
    network: str
    resize: str
    hash: str
    values: Tensor | None = None
    kept: Moments | None = None

    @classmethod
    def points(cls, x: Tensor) -> FeatureSet:
        """Return points [n, d] as their own features (network "identity")."""
        return cls.of([x], network=POINTS)

    @classmethod
    def of(cls, batches: Iterable[Tensor], *, network: str, resize: str = "none") -> FeatureSet:
        """Return the set of features that were computed elsewhere, batch by batch [b, d], all kept.

        Raises `InputError` for no rows, another shape, and values that are not finite.
        """
        rows = [_rows(batch) for batch in batches]
        if not sum(map(len, rows)):
            raise InputError("a feature set needs rows: give at least one sample")
        widths = sorted({row.shape[1] for row in rows})
        if len(widths) > 1:
            raise InputError(f"batches have {widths} features: give all the same number")
        values = torch.cat(rows)
        return cls(n=len(values), network=network, resize=resize, hash=_sha256([values]), values=values)

    @classmethod
    def streamed(
        cls, batches: Iterable[Tensor], *, network: str, resize: str = "none", dtype: torch.dtype = torch.float64
    ) -> FeatureSet:
        """Like `of`, but keep the moments alone: constant memory. `dtype` is explained in `Statistics`."""
        statistics = Statistics(dtype)
        digest = hashlib.sha256()
        for batch in batches:
            rows = _rows(batch)
            statistics.add(rows)
            digest.update(rows.numpy().tobytes())
        moments = statistics.moments()
        return cls(n=moments.n, network=network, resize=resize, hash=digest.hexdigest(), kept=moments)

    @cached_property
    def moments(self) -> Moments:
        """n, mean and covariance, in float64 (computed once)."""
        if self.kept is not None:
            return self.kept
        statistics = Statistics()
        statistics.add(self.rows)
        return statistics.moments()

    @cached_property
    def cholesky(self) -> Tensor | None:
        """The Cholesky factor of the covariance, None where the covariance is singular (computed once)."""
        factor, info = torch.linalg.cholesky_ex(self.moments.covariance)
        return factor if self.n > len(factor) and int(info) == 0 else None

    @property
    def rows(self) -> Tensor:
        """The features [n, d]; raises `InputError` where only the moments were kept."""
        if self.values is None:
            raise InputError("this feature set keeps the moments alone, enough for the Frechet distance only: use .of")
        return self.values

    @property
    def d(self) -> int:
        """The number of features."""
        return self.values.shape[1] if self.values is not None else len(self.moments.mean)

    def select(self, index: Sequence[int] | Tensor) -> FeatureSet:
        """Return the set of some of the rows."""
        return FeatureSet.of([self.rows[torch.as_tensor(index)]], network=self.network, resize=self.resize)

    def halves(self, seed: int = 0, n: int | None = None) -> tuple[FeatureSet, FeatureSet]:
        """Return two disjoint parts of `n` rows each, drawn by `seed`; half of the rows each without `n`."""
        n = self.n // 2 if n is None else n
        if not 1 <= n <= self.n // 2:
            raise InputError(f"two disjoint parts of {n} rows do not fit into {self.n}: ask for at most {self.n // 2}")
        order = Noise(range(self.n)).uniform("halves", seed).argsort()
        return self.select(order[:n]), self.select(order[n : 2 * n])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set to a safetensors file: moments, rows where they are kept, network, resize and hash.

        Raises `InputError` where `path` exists already: nothing is overwritten.
        """
        path = Path(path)
        if path.exists():
            raise InputError(f"{path} exists: choose another name or remove it")
        tensors = {"mean": self.moments.mean, "covariance": self.moments.covariance}
        if self.values is not None:
            tensors["values"] = self.values
        metadata = {"n": str(self.n), "network": self.network, "resize": self.resize, "hash": self.hash}
        metadata["products"] = str(self.moments.dtype).removeprefix("torch.")
        write_weights(path, tensors, metadata | {"tensors": _sha256(tensors[k] for k in sorted(tensors))})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureSet:
        """Read what `save` wrote. Raises `CheckpointError` for a damaged or foreign file."""
        tensors, metadata = read_whole(path)
        missing = {"n", "network", "resize", "hash", "products", "tensors"} - metadata.keys()
        if missing or not {"mean", "covariance"} <= tensors.keys() <= {"mean", "covariance", "values"}:
            raise CheckpointError(f"{path} is not a feature set; write one with FeatureSet.save")
        if _sha256(tensors[k] for k in sorted(tensors)) != metadata["tensors"]:
            raise CheckpointError(f"{path} is damaged: its tensors do not match their sha256; extract them again")
        n, dtype = int(metadata["n"]), torch.float32 if metadata["products"] == "float32" else torch.float64
        return cls(
            n=n,
            network=metadata["network"],
            resize=metadata["resize"],
            hash=metadata["hash"],
            values=tensors.get("values"),
            kept=Moments(n, tensors["mean"], tensors["covariance"], dtype),
        )


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Resize float images [B, C, H, W] to `size` x `size` with one of Pillow's filters, channel by channel in float32.

    Pillow widens its kernels when it shrinks a picture (antialiasing), and nothing is rounded to 8 bits: the filter
    that moves a Frechet distance least (Parmar et al. 2021, arXiv 2104.11222). Default 299, Inception's input.
    """

    size: int = 299
    filter: str = "bicubic"

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 [B, C, size, size]."""
        import numpy as np
        from PIL import Image

        try:
            kernel = Image.Resampling[self.filter.upper()]
        except KeyError:
            names = ", ".join(name.lower() for name in Image.Resampling.__members__)
            raise InputError(f"Pillow has no filter {self.filter!r}; it has {names}") from None
        planes = images.detach().cpu().float().flatten(0, 1).numpy()
        small = [np.asarray(Image.fromarray(p).resize((self.size, self.size), kernel)) for p in planes]
        return torch.from_numpy(np.stack(small)).unflatten(0, images.shape[:2])

    def __str__(self) -> str:
        return f"pillow-{self.filter}-{self.size}"


class Extractor:
    """A feature network, images [B, ...] -> features [B, d], with the identity that its figures carry.

    The identity of a module, or of a method of one, is the sha256 of its structure (its repr) and weights; any other
    function must be given a `name`, which stands in for it. `resize` is applied to the images first.

    Raises `InputError` for a function without a name and for a module in training mode (dropout and batch statistics
    would make its features depend on the batch).
    """

    def __init__(self, net: Callable[[Tensor], Tensor], name: str | None = None, resize: Resize | None = None) -> None:
        owner = getattr(net, "__self__", net)
        if isinstance(owner, nn.Module):
            self.id = f"{name or type(owner).__name__}:{_module_hash(owner, getattr(net, '__name__', ''))}"
        elif name is None:
            raise InputError("a feature network that is not a module has no weights to identify it: give it a name")
        else:
            self.id = name
        self.net, self.resize, self._owner = net, resize, owner

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features [B, d] of one batch of images, on the CPU."""
        if isinstance(self._owner, nn.Module) and self._owner.training:
            raise InputError(f"the feature network {self.id} is in training mode: call .eval() on it")
        features = self.net(images if self.resize is None else self.resize(images))
        if features.ndim != 2 or len(features) != len(images):
            raise InputError(
                f"{self.id} made {list(features.shape)} of {len(images)} images: features must be [{len(images)}, d]"
            )
        return features.cpu()

    def features(self, batches: Iterable[Tensor]) -> FeatureSet:
        """Return the features of all images of `batches`, kept."""
        return FeatureSet.of(map(self, batches), network=self.id, resize=self._filter)

    def moments(self, batches: Iterable[Tensor], dtype: torch.dtype = torch.float64) -> FeatureSet:
        """Return the moments of the features of `batches`, in constant memory: enough for the Frechet distance."""
        return FeatureSet.streamed(map(self, batches), network=self.id, resize=self._filter, dtype=dtype)

    @property
    def _filter(self) -> str:
        return "none" if self.resize is None else str(self.resize)


def pair(samples: FeatureSet | Tensor, reference: FeatureSet | Tensor) -> tuple[FeatureSet, FeatureSet]:
    """Return both sides as feature sets (tensors are taken as points), having checked that they are commensurable."""
    x, y = (FeatureSet.points(s) if isinstance(s, Tensor) else s for s in (samples, reference))
    for field in ("network", "resize", "d"):
        mine, its = getattr(x, field), getattr(y, field)
        if mine != its:
            raise InputError(
                f"samples and reference differ in {field}: {mine!r} and {its!r}; extract both with the same network"
            )
    return x, y


def measured(
    name: str,
    value: float,
    x: FeatureSet,
    y: FeatureSet,
    *,
    better: Literal["lower", "higher"],
    error: float | None = None,
    settings: str = "",
    note: str = "",
) -> Figure:
    """Return the figure of samples x against a reference y."""
    return Figure(
        name=name,
        value=value,
        better=better,
        n=x.n,
        n_reference=y.n,
        network=x.network,
        resize=x.resize,
        reference=y.hash,
        settings=settings,
        error=error,
        note=note,
    )


def _rows(batch: Tensor) -> Tensor:
    if batch.ndim != 2 or batch.shape[1] == 0:
        raise InputError(f"features are [rows, d], got shape {list(batch.shape)}: flatten to one row a sample")
    if not bool(torch.isfinite(batch).all()):
        raise InputError("features have values that are not finite: check the samples and the feature network")
    rows = batch.detach().cpu()
    return (rows if rows.dtype == torch.float64 else rows.float()).contiguous()


def _sha256(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _module_hash(module: nn.Module, method: str) -> str:
    digest = hashlib.sha256(f"{module!r} {method}".encode())
    for name, value in module.state_dict().items():
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
