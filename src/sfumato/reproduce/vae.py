"""The VAE (Kingma & Welling 2013, arXiv 1312.6114) beside diffusion: fast, with a bound, blurry."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs import VAE, VAEConfig
from ..codecs.learning import ELBO, evidence
from ..core import Noise, grids
from ..data import Digits, Tensors
from ..measure import frechet_distance
from ..objectives import Simple
from ..objectives.bound import decoder
from ..solvers import DDIM
from ..train import Cosine, TrainConfig
from .beds import rows_of
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import sheets
from .pictures import BATCH, draw, labels, reader, trained
from .runner import Context
from .training import fit_codec

SEED = 0
BIN = 1 / 8  # between the 17 levels of the digits
STEPS = 50  # of the diffusion model
N = 718  # pictures a side: half of the training scans
WEIGHED = 200  # draws of the likelihood's estimate
CODEC = VAEConfig(widths=(64, 128), latent=16)
TRAIN = TrainConfig(steps=1500, batch_size=128, lr=1e-3, rate=Cosine(warmup=100, end=0.02), ema=(10_000.0,))


def codec_of(context: Context) -> VAE:
    """Return a VAE of the digits, without their classes."""
    train = replace(TRAIN, seed=context.seed)
    return fit_codec(context, "digits-vae", CODEC, ELBO(bin=BIN), Tensors(Digits().rows.x0), train)


@torch.no_grad()
def likelihood(codec: VAE, x: Tensor, *, draws: int = WEIGHED, bin: float | None = BIN, seed: int = SEED) -> Tensor:
    """Return an estimate of ln p(x)[B], ln of the mean of p(x | z) p(z) / q(z | x) over draws z ~ q.

    (Burda et al. 2015, arXiv 1509.00519, eq. 8.) A lower bound in expectation that closes as the draws grow.
    """
    mean, deviation = codec.posterior(x)
    assert deviation is not None
    logs: list[Tensor] = []
    for i in range(draws):
        e = Noise(rows_of(f"weighed {i}", len(x), seed=seed)).like(mean, "z")
        z = mean + deviation * e
        inside = -decoder(x, codec.decode(z), 2 * codec.log_scale, bin).flatten(1).sum(1)
        logs.append(inside + (0.5 * (e.square() - z.square()) + torch.log(deviation)).flatten(1).sum(1))
    return torch.logsumexp(torch.stack(logs), 0) - math.log(draws)


def sharpness(x: Tensor) -> float:
    """Return the mean square of the discrete Laplacian inside the pictures: what a blur takes away first."""
    kernel = x.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    return float(F.conv2d(x, kernel.expand(x.shape[1], 1, 3, 3), groups=x.shape[1]).square().mean())


def seconds(make: Callable[[], Tensor]) -> float:
    """Return the processor time of the faster of two calls."""
    times: list[float] = []
    for _ in range(2):
        began = time.process_time()
        make()
        times.append(time.process_time() - began)
    return min(times)


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    codec, net = codec_of(context), reader(context)
    held, scans = Digits(held_out=True).rows.x0, Digits().rows.x0
    unit = held[0].numel() * math.log(2)
    with torch.no_grad():
        nats, kl = evidence(codec, held, Noise(rows_of("bound", len(held), seed=context.seed)), BIN)
        made = codec.decode(codec.encode(held))
    bound, exact = float((nats + kl).mean()) / unit, -float(likelihood(codec, held, seed=context.seed).mean()) / unit
    said = f"{bound:.3f} bits a pixel by the bound, {exact:.3f} by {WEIGHED} draws; {float(kl.mean()):.1f} nats in z"
    yield Measured("bound", bound - exact, said)
    yield Measured("informed", bound / math.log2(17), f"{math.log2(17):.2f} bits are 17 equal levels")
    error = float((made - held).square().mean().sqrt())
    blank = float((scans.mean(0) - held).square().mean().sqrt())
    yield Measured("compresses", error / blank, f"root mean squared error {error:.3f}, of the mean digit {blank:.3f}")
    denoiser = trained(context, "simple", Simple())
    grid, y = grids.uniform(denoiser.schedule, STEPS), labels(N)
    slow = draw(denoiser, y, DDIM(), grid, "vae", seed=context.seed)

    def fast() -> Tensor:
        z = Noise(rows_of("prior", N, seed=context.seed)).normal((N, CODEC.latent, 1, 1), "z")
        with torch.no_grad():
            return codec.decode(z)

    quick = fast()
    few = y[:BATCH]
    one = seconds(fast) / N
    fifty = seconds(lambda: draw(denoiser, few, DDIM(), grid, "vae", seed=context.seed)) / len(few)
    yield Measured("fast", fifty / one, f"{one * 1e3:.3f} ms a picture against {fifty * 1e3:.2f} in {STEPS} steps")
    sharp = [sharpness(v) for v in (quick, slow, scans)]
    told = f"mean squared Laplacian {sharp[0]:.2f}, diffusion {sharp[1]:.2f}, scans {sharp[2]:.2f}"
    yield Measured("blurry", sharp[0] / sharp[1], told)
    real = net.features(scans).double()
    far = [float(frechet_distance(net.features(v).double(), real)) for v in (quick, slow)]
    yield Measured("poor", far[0] / far[1], f"Fréchet distance {far[0]:.1f} against {far[1]:.1f}")
    shown = {"scans": held, "reconstructed": made, "drawn by the VAE": quick, "drawn by diffusion": slow}
    clean = {name: x.clamp(-1, 1) for name, x in shown.items()}
    context.draw("digits", lambda: sheets(clean, 30, 5, width=2.2, height=2.6))


CLAIMS = (
    Claim(
        key="bound",
        says="the objective is an explicit bound on the likelihood, and near it",
        reported="eq. 3; figure 2",
        measure="bits a pixel by the bound less those by weighed draws, held-out digits",
        low=0.0,
        high=0.25,
    ),
    Claim(
        key="informed",
        says="it says something: the model knows the data",
        reported="figure 2",
        measure="bits a pixel by the bound over those of 17 equal levels",
        high=0.75,
    ),
    Claim(
        key="compresses",
        says="16 numbers keep a picture of 64 pixels",
        reported="section 5",
        measure="root mean squared error over that of the mean digit",
        high=0.6,
    ),
    Claim(
        key="fast",
        says="a picture is drawn in one evaluation",
        reported="section 2",
        measure=f"processor time of {STEPS} steps of diffusion over that of the VAE, a picture",
        low=STEPS,
    ),
    Claim(
        key="blurry",
        says="its pictures are blurry beside those of diffusion",
        measure="mean squared Laplacian of its samples over that of diffusion's",
        high=0.9,
    ),
    Claim(
        key="poor",
        says="and farther from the data",
        measure="Fréchet distance over that of diffusion's, in the features of a classifier",
        low=1.5,
    ),
    Claim(
        key="mnist",
        says="the bound on MNIST and Frey faces against wake-sleep, and the learned manifolds",
        reported="figures 2 to 5",
        unshown="needs MNIST and the Frey faces; the bound is here on scans of digits, 8 x 8",
    ),
)

SYSTEM = System(
    entry=CATALOGUE["vae"],
    claims=CLAIMS,
    protocol=(
        "Digits, 8 x 8, 17 levels; a convolutional VAE of 16 latents with a learned scale, 1500 steps of 128, without "
        f"classes; beside it the digits' DDPM, {STEPS} steps of DDIM with classes; {N} samples each."
    ),
    seed=SEED,
    run=run,
)
