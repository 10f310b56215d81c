"""Averages of the weights whose length is chosen after training (Karras et al. 2024, arXiv 2312.02696, section 3).

A power-function average weighs the weights at time tau (in images) by tau^gamma, gamma given by sigma_rel, the standard
deviation of that profile relative to the length of the run. Two of them are tracked and saved often; any other profile
is then the linear combination of the saved ones that is nearest to it in the least-squares sense.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core import CheckpointError, InputError, register
from ..core.weights import check_header, read_metadata, read_weights, write_weights

if TYPE_CHECKING:
    from .runs import Run

Vector = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_SNAPSHOT = re.compile(r"step-(\d{8,})\.safetensors")


@register
@dataclass(frozen=True, kw_only=True)
class PostHoc:
    """Track power-function averages of the lengths `sigma_rels` and save them every `every` steps, in `averages/`.

    Default lengths: the paper's 0.05 and 0.10; what lies between 0.05 and 0.2 can be reconstructed well from these.
    Some 16 snapshots a run are enough. Raises `InputError` for lengths outside (0, 0.2887), the flat average's.
    """

    every: int
    sigma_rels: tuple[float, ...] = (0.05, 0.10)

    def __post_init__(self) -> None:
        if self.every < 1 or len(set(self.sigma_rels)) < max(len(self.sigma_rels), 1):
            raise InputError(f"{self} needs every of at least 1 and different lengths sigma_rels")
        for sigma_rel in self.sigma_rels:
            exponent(sigma_rel)


def exponent(sigma_rel: float) -> float:
    """Return gamma with sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))) = sigma_rel (section 3.1, app. C).

    The largest real root of gamma^3 + 7 gamma^2 + (16 - s) gamma + 12 - s, s = sigma_rel^-2. Raises `InputError`
    outside (0, 12^-1/2): at the upper end gamma = 0, the plain mean of the whole run.
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise InputError(f"sigma_rel={sigma_rel} must lie between 0 and 0.2887, the length of the mean of all weights")
    s = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - s, 12.0 - s]).real.max())


class PowerEMA:
    """theta <- b theta + (1 - b) w after a step of n images, b = (1 - n / t)^(gamma + 1), t with them (section 3.1).

    The weights of step i then count exactly the integral of (gamma + 1) tau^gamma / t^(gamma + 1) over its images.
    """

    def __init__(self, net: nn.Module, sigma_rels: Sequence[float]) -> None:
        named = dict(net.named_parameters())
        self.names = list(named)
        self._weights = [p.detach() for p in named.values()]
        self.averages = {s: [p.clone() for p in self._weights] for s in sigma_rels}
        self._powers = {s: exponent(s) + 1 for s in sigma_rels}

    @torch.no_grad()
    def update(self, images: int, seen: int) -> None:
        """Take in the weights after a step of `images`, with `seen` images after it."""
        for sigma_rel, average in self.averages.items():
            share = 1 - (1 - images / seen) ** self._powers[sigma_rel]
            torch._foreach_lerp_(average, self._weights, share)  # pyright: ignore[reportPrivateImportUsage]

    def state(self) -> dict[str, Tensor]:
        """Return all averages as `sigma_rel/parameter`, not copied."""
        return {f"{s!r}/{n}": t for s, average in self.averages.items() for n, t in zip(self.names, average)}


def combination(times: Vector, exponents: Vector, time: float, gamma: float) -> Vector:
    """Return the weights, of sum 1, that combine profiles (`times`, `exponents`) to the one of (`time`, `gamma`).

    Least squares over tau (section 3.2, app. C): A X = b with A_ij = <p_i, p_j>, b_i = <p_i, p>,
    p = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t], in float64.
    """
    gram = inner(times[:, None], exponents[:, None], times[None], exponents[None])
    right = inner(times, exponents, np.float64(time), np.float64(gamma))
    solved = np.linalg.lstsq(gram, right, rcond=1e-14)[0]
    return solved / solved.sum()


def inner(t: Any, g: Any, u: Any, h: Any) -> Any:
    """Return the integral of the product of the profiles (t, g) and (u, h):
    (g + 1)(h + 1) / (g + h + 1) (m / t)^g (m / u)^h / max(t, u), m = min(t, u).
    """
    low, high = np.minimum(t, u), np.maximum(t, u)
    return (g + 1) * (h + 1) / (g + h + 1) * (low / t) ** g * (low / u) ** h / high


def save_snapshot(run: Run, step: int, images: int, averages: Mapping[str, Tensor]) -> None:
    """Write the averages after `step`, `images` images seen, to the run's `averages/`, whole or not at all."""
    folder = run.path / "averages"
    folder.mkdir(exist_ok=True)
    write_weights(folder / f"step-{step:08d}.safetensors", averages, {"images": str(images)})


def snapshots(run: Run) -> list[Path]:
    """Return the run's snapshots of its averages, the oldest first."""
    folder = run.path / "averages"
    found = [(int(m.group(1)), p) for p in folder.glob("*") if (m := _SNAPSHOT.fullmatch(p.name))]
    return [p for _, p in sorted(found)]


def reconstruct(run: Run, sigma_rel: float, step: int | None = None) -> dict[str, Tensor]:
    """Return the average of length `sigma_rel` as of `step` (the last snapshot by default), by parameter name.

    From all snapshots up to it, one in memory at a time. Raises `InputError` for a length or a step that cannot be,
    `CheckpointError` where snapshots are missing or damaged.
    """
    gamma = exponent(sigma_rel)
    files = [p for p in snapshots(run) if step is None or int(p.stem[5:]) <= step]
    if not files or (step is not None and int(files[-1].stem[5:]) != step):
        raise CheckpointError(
            f"{run.path} has no snapshot of its averages{'' if step is None else f' at step {step}'}: "
            f"train with TrainConfig.posthoc; there are {[int(p.stem[5:]) for p in snapshots(run)][-8:]}"
        )
    places: list[tuple[Path, str, float, float]] = []
    for path in files:
        images = float(read_metadata(path)["images"])
        lengths = {name.split("/", 1)[0] for name in check_header(path)[0]}
        places += [(path, length, images, exponent(float(length))) for length in sorted(lengths)]
    times, exponents = (np.array([p[k] for p in places], dtype=np.float64) for k in (2, 3))
    weights = combination(times, exponents, times.max(), gamma)
    total: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    for path in files:
        shares = {length: float(w) for (p, length, _, _), w in zip(places, weights) if p == path}
        for name, tensor in read_weights(path).items():
            length, parameter = name.split("/", 1)
            part = tensor.double() * shares[length]
            total[parameter] = total[parameter] + part if parameter in total else part
            kinds[parameter] = tensor.dtype
    return {name: tensor.to(kinds[name]) for name, tensor in total.items()}


def cut(run: Run, step: int) -> None:
    """Remove the snapshots behind `step`: a run that went back writes its own."""
    for path in snapshots(run):
        if int(path.stem[5:]) > step:
            path.unlink(missing_ok=True)
