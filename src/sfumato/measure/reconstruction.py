"""How near reconstructions are to their pictures: PSNR and SSIM, a number a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import InputError

RANGE = 2.0  # of pixel values: [-1, 1]
WINDOW, SIGMA = 11, 1.5  # of SSIM, in pixels (Wang et al. 2004, section III.B)
K1, K2 = 0.01, 0.03


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return float64[B], 10 log10(4 / mean |x - y|^2) in decibels, of pictures in [-1, 1]; infinity for equal ones.

    Raises `InputError` for pictures of different shapes.
    """
    _alike(x, y)
    error = (x.double() - y.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(RANGE**2 / error)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return float64[B], the structural similarity of pictures [B, C, H, W] in [-1, 1] (Wang et al. 2004, eq. 13).

    (2 mx my + c1)(2 sxy + c2) / ((mx^2 + my^2 + c1)(sx^2 + sy^2 + c2)), moments under a Gaussian window of 11 x 11 with
    deviation 1.5, c = (0.01 L)^2 and (0.03 L)^2 for the range L = 2; the mean over channels and the places where the
    window fits. Raises `InputError` for pictures of different shapes, and smaller ones than the window.
    """
    _alike(x, y)
    if min(x.shape[-2:]) < WINDOW:
        height, width = x.shape[-2:]
        raise InputError(
            f"SSIM has a window of {WINDOW} x {WINDOW}, pictures of {width} x {height} are smaller than it"
        )
    a, b = x.double(), y.double()
    mx, my, xx, yy, xy = (_windowed(v) for v in (a, b, a * a, b * b, a * b))
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    spread = (xx - mx * mx) + (yy - my * my)
    found = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2) / ((mx * mx + my * my + c1) * (spread + c2))
    return found.flatten(1).mean(1)


def block_means(x: Tensor, side: int) -> Tensor:
    """Return pictures [B, C, H, W] whose blocks of `side` x `side` pixels are their means: the plainest of codecs.

    Raises `InputError` where blocks do not fill the pictures.
    """
    if x.shape[-2] % side or x.shape[-1] % side:
        height, width = x.shape[-2:]
        raise InputError(f"blocks of {side} x {side} do not fill pictures of {width} x {height}: give a divisor")
    return F.interpolate(F.avg_pool2d(x, side), scale_factor=side)


def _windowed(x: Tensor) -> Tensor:
    """Return the mean under the window, at the places where it fits."""
    at = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-0.5 * (at / SIGMA) ** 2)
    window = window / window.sum()
    flat = x.flatten(0, 1)[:, None]
    along = F.conv2d(flat, window[None, None, :, None])
    return F.conv2d(along, window[None, None, None, :]).unflatten(0, x.shape[:2])[:, :, 0]


def _alike(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape or x.ndim != 4:
        raise InputError(f"pictures {tuple(x.shape)} and {tuple(y.shape)} cannot be compared: give two [B, C, H, W]")
