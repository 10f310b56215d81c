"""The conformance table: one instance, or several, of everything that is registered. A new part adds its row here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import (
    EDM,
    VE,
    X0,
    Eps,
    Flow,
    FlowTime,
    Karras,
    Plain,
    Prediction,
    Rectified,
    Scaling,
    Schedule,
    Score,
    Solver,
    SubVP,
    Table,
    V,
    VPCosine,
    VPLinear,
    VPScaledLinear,
    VPSigmoid,
    ZeroTerminalSNR,
    grids,
)
from ..guidance import (
    Autoguidance,
    CFGpp,
    Classifier,
    ClassifierFree,
    DynamicThreshold,
    Interval,
    Rescale,
    SkipLayer,
    TwoScale,
)
from ..solvers import (
    BH1,
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    LCM,
    LMS,
    PLMS,
    PNDM,
    RK45,
    TCD,
    Ancestral,
    AnnealedLangevin,
    DDPMLearned,
    DPMAdaptive,
    DPMpp2M,
    DPMpp2MHeunSDE,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp2SSDE,
    DPMpp3M,
    DPMpp3MSDE,
    DPMpp3MShipped,
    DPMpp3S,
    DPMSolver2,
    DPMSolver3,
    Euler,
    Heun,
    PredictorCorrector,
    Restart,
    SASolver,
    UniP,
    UniPC,
)
from ..solvers.churn import Churn
from .classifier import ExactClassifier
from .gaussian import Gaussian
from .mixture import GaussianMixture

# A line for exact moments, a point on it, a correlated plane, a line with three modes
# (its flow is exact too), classes, and pictures whose H = W = 4.
DOT = Gaussian([0.7], 0.3)
POINT = Gaussian([0.7], 1e-12)
PLANE = Gaussian([0.5, -0.3], [[0.5, 0.2], [0.2, 0.3]])
LINE = GaussianMixture([[-1.1], [0.4], [1.3]], [0.25, 0.2, 0.3], [0.3, 0.45, 0.25])
CLASSES = GaussianMixture(
    [[-1.2, -0.6], [0.9, 1.0], [1.1, -1.1]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.25, 0.0], [0.0, 0.4]], [[0.2, -0.05], [-0.05, 0.3]]],
    [0.3, 0.45, 0.25],
    labels=[0, 1, 1],
)
PICTURES = GaussianMixture(
    torch.linspace(-1, 1, 96, dtype=torch.float64).sin().reshape(3, 2, 4, 4), [0.3, 0.2, 0.4], labels=[0, 1, 2]
)

SCHEDULES: dict[str, Schedule] = {
    "VPLinear": VPLinear(),
    "VPScaledLinear": VPScaledLinear(),
    "VPCosine": VPCosine(),
    "VPSigmoid": VPSigmoid(),
    "SubVP": SubVP(),
    "VE": VE(),
    "Rectified": Rectified(),
    "Rectified(shift=3)": Rectified(shift=3.0),
    # Stable Diffusion's
    "Table": Table.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2),
    "ZeroTerminalSNR": ZeroTerminalSNR(base=VPScaledLinear()),
}

PREDICTIONS: dict[str, Prediction] = {
    "X0": X0(),
    "Eps": Eps(),
    "V": V(),
    "Flow": Flow(),
    "Score": Score(),
    "Karras": Karras(),
}

SCALINGS: dict[str, Scaling] = {"Plain": Plain(), "EDM": EDM(), "FlowTime": FlowTime()}

CHURN = Churn(amount=20.0)

SOLVERS: dict[str, Solver] = {
    "DDPM": DDPM(),
    "DDPM(variance=1)": DDPM(variance=1.0),
    "DDPMLearned": DDPMLearned(),
    "DDIM": DDIM(),
    "DDIM(eta=0.5)": DDIM(eta=0.5),
    "DDIM(eta=1)": DDIM(eta=1.0),
    "Euler": Euler(),
    "Euler(churn)": Euler(churn=CHURN),
    "Heun": Heun(),
    "Heun(churn)": Heun(churn=CHURN),
    "DPMpp2M": DPMpp2M(),
    "DPMpp3M": DPMpp3M(),
    "DPMpp3MShipped": DPMpp3MShipped(),
    "DPMpp2S": DPMpp2S(),
    "DPMpp3S": DPMpp3S(),
    "DPMpp2SSDE": DPMpp2SSDE(),
    "DPMpp2MSDE": DPMpp2MSDE(),
    "DPMpp2MHeunSDE": DPMpp2MHeunSDE(),
    "DPMpp3MSDE": DPMpp3MSDE(),
    "DPMSolver2": DPMSolver2(),
    "DPMSolver3": DPMSolver3(),
    "DEIS": DEIS(),
    "DEIS(order=2)": DEIS(order=2),
    "DEIS(order=4)": DEIS(order=4),
    "UniP(BH1)": UniP(b=BH1()),
    "UniPC": UniPC(),
    "UniPC(BH1)": UniPC(b=BH1()),
    "UniPC(p=3)": UniPC(p=3),
    "SASolver": SASolver(),
    "SASolver(p=2, range)": SASolver(p=2, tau=0.8, low=0.1, high=20.0),
    "Ancestral": Ancestral(),
    "Ancestral(DPMpp2M, eta=0.5)": Ancestral(solver=DPMpp2M(), eta=0.5),
    "LMS": LMS(),
    "LMS(order=2)": LMS(order=2),
    "IPNDM": IPNDM(),
    "PLMS": PLMS(),
    "PNDM": PNDM(),
    "RK45": RK45(),
    "DPMAdaptive": DPMAdaptive(),
    "Restart": Restart(low=1.0, high=2.5, steps=6),
    "PredictorCorrector": PredictorCorrector(),
    "AnnealedLangevin": AnnealedLangevin(steps=10, rate=0.3),
    "TCD": TCD(),
    "LCM": LCM(),
}


def worse(model: GaussianMixture) -> GaussianMixture:
    """Return a bad model of the same data: its components too near to each other and half as wide again."""
    return GaussianMixture(0.8 * model.means, 1.5 * model.covariances, model.weights, model.labels)


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """A denoiser that also reads a picture, `extra`, and adds it to its answer: what a second scale acts on."""

    denoiser: Any

    @property
    def schedule(self) -> Schedule:
        """The denoiser's schedule."""
        return self.denoiser.schedule

    @property
    def cond(self) -> dict[str, Any]:
        """The denoiser's condition keys, and the picture."""
        return {**self.denoiser.cond, "extra": None}

    def __call__(self, x: Tensor, t: float | Tensor, extra: Tensor | float = 0.0, **cond: Any) -> Tensor:
        """Return x0_hat + extra."""
        return self.denoiser(x, t, **cond) + extra


_guided = ClassifierFree(denoiser=CLASSES.denoiser(VPLinear()), scale=2.5)

GUIDANCE: dict[str, Any] = {
    "ClassifierFree": _guided,
    "Interval": Interval(denoiser=_guided, low=0.3, high=3.0),
    "Rescale": Rescale(denoiser=_guided),
    "Rescale(V)": Rescale(denoiser=_guided, space=V()),
    "Classifier": Classifier(
        denoiser=CLASSES.denoiser(VPLinear()),
        classifier=ExactClassifier(model=CLASSES, schedule=VPLinear()),
        scale=2.0,
    ),
    "DynamicThreshold": DynamicThreshold(denoiser=_guided, quantile=0.9),
    "CFGpp": CFGpp(denoiser=CLASSES.denoiser(VPLinear()), omega=0.6, grid=grids.uniform(VPLinear(), 24)),
    "Autoguidance": Autoguidance(
        denoiser=CLASSES.denoiser(VPLinear()), bad=worse(CLASSES).denoiser(VPLinear()), scale=2.0
    ),
    "SkipLayer": SkipLayer(denoiser=_guided, bad=worse(CLASSES).denoiser(VPLinear()), scale=1.5, low=0.1, high=3.0),
    "TwoScale": TwoScale(denoiser=CLASSES.denoiser(VPLinear()), scale=2.5, image_scale=1.5),
    "Rescale(Interval)": Rescale(denoiser=Interval(denoiser=_guided, low=0.3, high=3.0)),
}
