"""Classifier guidance (Dhariwal & Nichol 2021, arXiv 2105.05233): a classifier of noised data steers a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..core import X0, Denoiser, Noise, Preconditioned, VPLinear, grids, steps
from ..data import Digits
from ..guidance import Classifier, ClassifierFree, Logits
from ..guidance.guided import Around
from ..nets.encoder import digits_classifier
from ..objectives import Classifying, Simple
from ..solvers import DDIM
from ..testing import ExactClassifier, GaussianMixture
from ..train import AdamW, Cosine, TrainConfig
from . import cfg, pictures
from .beds import seeds, slope
from .catalogue import CATALOGUE
from .claims import Claim, Measured, System
from .figures import lines, panels, tiles
from .runner import Context
from .training import built, fit

SEED = 0
POINTS = 2000
SCALES = (0.0, 1.0, 3.0, 10.0)  # the paper's, for an unconditional base: 1 and 10
LEVELS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
STEPS = 20
# the paper's weight decay; its 3e-4 and 300,000 steps of 256 are for ImageNet
TRAIN = TrainConfig(
    steps=600,
    batch_size=128,
    lr=2e-3,
    rate=Cosine(warmup=50, end=0.02),
    optimiser=AdamW(weight_decay=0.05),
    ema=(10_000.0,),
)


class Unlabelled(Around):
    """The unconditional half of a model that was trained with its labels dropped now and then."""

    @property
    def cond(self) -> Mapping[str, Any]:
        """No conditions."""
        return {}

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the unconditional x0_hat, twice."""
        x0 = self.denoiser(x, t)
        return x0, x0


@cache
def everyone() -> GaussianMixture:
    """Return the law of `cfg.classes` without its labels."""
    law = cfg.classes()
    return GaussianMixture(law.means, law.covariances, law.weights)


def exact(schedule: Any, scale: float) -> Classifier:
    """Return the exact unconditional denoiser of `cfg.classes`, guided by the exact classifier."""
    classifier = ExactClassifier(model=cfg.classes(), schedule=schedule)
    return Classifier(denoiser=everyone().denoiser(schedule), classifier=classifier, scale=scale)


def forms(*, seed: int = SEED) -> tuple[float, float]:
    """Return how far both of the paper's forms are from the one in x_0.

    First the largest difference of a DDIM step with eps - w sigma grad log p (algorithm 2); then the order in the step
    at which the shift of the reverse mean, w Sigma grad log p (algorithm 1), tends to that of the guided x_0.
    """
    schedule, w = VPLinear(), 2.5
    x, y = everyone().sample(256, seed, dtype=torch.float64), torch.zeros(256, dtype=torch.int64)
    plain, guided = everyone().denoiser(schedule), exact(schedule, w)
    worst, gaps, sizes = 0.0, [], (0.04, 0.02, 0.01)
    for h in sizes:
        (k,) = steps(schedule, torch.tensor([0.5, 0.5 - h], dtype=torch.float64))
        slopes = _slopes(schedule, x, k.t, y)
        eps = (x - k.alpha_t * plain(x, k.t)) / k.sigma_t - w * k.sigma_t * slopes
        by_eps = k.alpha_s * (x - k.sigma_t * eps) / k.alpha_t + k.sigma_s * eps
        by_x0, _ = DDIM().step(guided, x.clone(), k, None, Noise(range(256)), {"y": y})
        worst = max(worst, float((by_eps - by_x0).abs().max()))
        beta = 1 - (k.alpha_t / k.alpha_s) ** 2
        moved = k.alpha_s * beta / k.sigma_t**2 * (guided(x, k.t, y=y) - plain(x, k.t))
        gaps.append(float((moved - w * beta * slopes).norm() / moved.norm()))
    return worst, -slope(sizes, gaps)


def _slopes(schedule: Any, x: Tensor, t: float, y: Tensor) -> Tensor:
    """Return grad log p(y | x_t) by central differences of the log-probability: not by what guidance itself uses."""
    log_p, h = ExactClassifier(model=cfg.classes(), schedule=schedule), 1e-4
    ways = h * torch.eye(x.shape[1], dtype=x.dtype)
    # of fourth order: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h
    near = [log_p(x + d, t, y) - log_p(x - d, t, y) for d in ways]
    far = [log_p(x + 2 * d, t, y) - log_p(x - 2 * d, t, y) for d in ways]
    return torch.stack([(8 * a - b) / (12 * h) for a, b in zip(near, far, strict=True)], 1)


def classifier(context: Context) -> Preconditioned:
    """Return the classifier of noised digits."""
    net = Preconditioned(built(digits_classifier(), context.seed), VPLinear(), X0())
    return fit(context, "digits-classifier", net, Classifying(), Digits(), replace(TRAIN, seed=context.seed))


@torch.no_grad()
def accuracy(network: Preconditioned, t: float, *, seed: int = SEED) -> float:
    """Return the share of held-out scans, noised to time t, whose digit is read right."""
    scans = Digits(held_out=True).rows
    alpha, sigma = network.schedule(t)
    x = alpha * scans.x0 + sigma * seeds(len(scans.x0), "accuracy", seed).like(scans.x0, "eps")
    return float((network.output(x, t)[0].argmax(1) == scans.cond["y"]).double().mean())


def run(context: Context) -> Iterator[Measured]:
    """Measure the claims."""
    conditional, seed = cfg.exact(), context.seed
    schedule = conditional.schedule
    gap = cfg.guided(exact(schedule, 1.0), n=POINTS, seed=seed) - cfg.guided(conditional, n=POINTS, seed=seed)
    yield Measured("bayes", float(gap.abs().max()), f"{POINTS} points, Heun, {cfg.STEPS} steps")
    clouds = {w: cfg.guided(exact(schedule, w), n=POINTS, seed=seed) for w in SCALES[1:]}
    free = cfg.guided(ClassifierFree(denoiser=conditional, scale=3.0), n=POINTS, seed=seed)
    yield Measured("classifier-free", float((clouds[3.0] - free).abs().max()), "w = 3, the same points")
    narrow = {w: float(x[:, 1].std()) for w, x in clouds.items()}
    told = "; ".join(f"w = {w:g}: {cfg.recognised(clouds[w]):.4g}, {narrow[w]:.3f}" for w in clouds)
    note = f"share recognised, std across the class: {told}"
    yield Measured("diversity", max(narrow[b] / narrow[a] for a, b in pairwise(narrow)), note)
    by_eps, order = forms(seed=seed)
    yield Measured("ddim-form", by_eps, "steps of 0.04, 0.02 and 0.01 from t = 0.5, w = 2.5")
    yield Measured("mean-form", order, "the same steps")
    yield from _digits(context)


def _digits(context: Context) -> Iterator[Measured]:
    judge = pictures.Judge(context)
    network = classifier(context)
    read = {t: accuracy(network, t, seed=context.seed) for t in LEVELS}
    note = "share of held-out scans read right at time t: " + ", ".join(f"{v:.3f} at {t:g}" for t, v in read.items())
    yield Measured("clean", read[LEVELS[0]], note)
    yield Measured("noise", read[1.0], "as above")

    model = pictures.trained(context, "simple", Simple())
    y = pictures.labels(judge.n)
    grid = grids.log_snr(model.schedule, STEPS, sigma_min=0.01)
    seen, blind = Logits(network), _clean_only(judge)

    def drawn(name: str, denoiser: Denoiser) -> tuple[Tensor, pictures.Score]:
        context.progress(f"sampling digits, {name}", None)
        x = pictures.draw(denoiser, y, DDIM(), grid, "adm", seed=context.seed)
        return x, judge(x, y)

    base = Unlabelled(denoiser=model)
    shown: dict[float, Tensor] = {}
    scores: dict[float, pictures.Score] = {}
    for w in SCALES:
        shown[w], scores[w] = drawn(f"w = {w:g}", Classifier(denoiser=base, classifier=seen, scale=w))
    told = "; ".join(f"w = {w:g}: {score}" for w, score in scores.items())
    note = f"{told}; real scans: {judge.floor}"
    first, last = scores[1.0], scores[10.0]
    yield Measured("unguided", scores[0.0].recognised, note)
    yield Measured("fidelity", last.recognised - first.recognised, "as above")
    yield Measured("precision", last.precision - scores[0.0].precision, "as above")
    yield Measured("recall", last.recall / scores[0.0].recall, "as above")
    _, plain = drawn("class-conditional", model)
    _, both = drawn("class-conditional, w = 1", Classifier(denoiser=model, classifier=seen, scale=1.0))
    yield Measured("both", both.recognised - plain.recognised, f"{plain}; guided: {both}")
    _, wrong = drawn("clean classifier", Classifier(denoiser=base, classifier=blind, scale=10.0))
    # not by the share recognised: the clean classifier is the judge itself, and steers its own verdict
    yield Measured("blind", last.precision - wrong.precision, f"by the clean classifier, w = 10: {wrong}")

    def paint() -> Any:
        figure, axes = panels(1, 4, width=3.1, height=3.1)
        for axis, w in zip(axes, (0.0, 1.0, 10.0), strict=False):
            tiles(axis, shown[w][:100], 10, f"w = {w:g}, a digit a column")
        across = list(scores)
        curves = {
            name: ([float(i) for i in range(len(across))], [getattr(scores[w], name) for w in across])
            for name in ("recognised", "precision", "recall")
        }
        lines(axes[3], "Fidelity against diversity", "w", "", curves)
        axes[3].set_xticks(range(len(across)), [f"{w:g}" for w in across])
        return figure

    context.draw("digits", paint)


def _clean_only(judge: pictures.Judge) -> Any:
    """Return the log-likelihood of the classifier that has seen clean scans alone, asked about x_t as it stands."""

    def log_p(x: Tensor, t: float | Tensor, y: Tensor) -> Tensor:
        return torch.log_softmax(judge.net(x), 1).gather(1, y[:, None])[:, 0]

    return log_p


CLAIMS = (
    Claim(
        key="bayes",
        says="an unconditional model guided at w = 1 is the conditional model",
        reported="section 4: p(x_t | x_(t+1)) p(y | x_t)",
        measure="largest difference of their samples, exact model and classifier",
        high=1e-9,
    ),
    Claim(
        key="classifier-free",
        says="with an exact classifier, guidance at any w is classifier-free guidance at that w",
        measure="largest difference of the samples",
        high=1e-8,
    ),
    Claim(
        key="diversity",
        says="samples lose variety as w grows",
        reported="recall falls (figure 4)",
        measure="largest ratio of the std across the class from one w >= 1 to the next",
        high=0.98,
    ),
    Claim(
        key="ddim-form",
        says="its form for DDIM, eps - w sigma grad log p, is guidance of x_0",
        reported="algorithm 2",
        measure="largest difference of a step",
        high=1e-9,
    ),
    Claim(
        key="mean-form",
        says="its form for ancestral sampling, a mean shifted by w Sigma grad log p, is the same to first order",
        reported="algorithm 1",
        measure="order in the step of the relative difference of the shifts",
        low=0.9,
        high=1.1,
    ),
    Claim(
        key="clean",
        says="the classifier reads what is hardly noised",
        measure="share of held-out scans read right at t = 0.02",
        low=0.85,
    ),
    Claim(key="noise", says="and knows that it cannot read noise", measure="the same at t = 1", high=0.2),
    Claim(
        key="unguided",
        says="w = 0 knows nothing of the class",
        measure="share recognised as the digit asked for, of ten",
        low=0.05,
        high=0.15,
    ),
    Claim(
        key="fidelity",
        says="an unconditional model meets the class better at w = 10 than at 1",
        reported="ImageNet 256: IS 32.9 to 95.4 (table 4)",
        measure="gain of the share recognised",
        low=0.1,
    ),
    Claim(
        key="precision",
        says="guidance raises precision",
        reported="0.61 to 0.76 at w = 10 (table 4)",
        measure="gain of precision from w = 0 to 10",
        low=0.01,
    ),
    Claim(
        key="recall",
        says="and costs recall",
        reported="0.63 to 0.44 (table 4)",
        measure="recall at w = 10 over that at 0",
        high=0.8,
    ),
    Claim(
        key="both",
        says="a class-conditional model is guided too, and meets the class better",
        reported="IS 101 to 187 (table 4)",
        measure="gain of the share recognised at w = 1",
        low=0.0,
    ),
    Claim(
        key="blind",
        says="the classifier must have seen noise",
        reported="section 4: trained on noisy images",
        measure="gain of precision over guidance by a classifier of clean scans, w = 10",
        low=0.1,
    ),
    Claim(key="imagenet", says="FID 3.94 on ImageNet 256", reported="3.94", unshown="needs ImageNet on GPUs"),
)

SYSTEM = System(
    entry=CATALOGUE["adm"],
    claims=CLAIMS,
    protocol=(
        "Exact: two classes in the plane, Heun in 50 steps, 2000 points. Digits: the model that `ddpm` trains, without "
        "its label; a classifier of 0.13 M parameters, 600 steps of 128 noised scans; DDIM in 20 steps, 718 samples."
    ),
    seed=SEED,
    run=run,
)
