"""`scheduler_config.json`: what a checkpoint's numbers mean (its contract), and the sampler that it came with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...core import (
    X0,
    Eps,
    Flow,
    FlowTime,
    InputError,
    Plain,
    Prediction,
    Rectified,
    Scaling,
    Schedule,
    Solver,
    Table,
    V,
    ZeroTerminalSNR,
    nearest,
)
from ...solvers import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    LCM,
    LMS,
    PLMS,
    PNDM,
    TCD,
    Ancestral,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp3MShipped,
    DPMSolver2,
    Euler,
    Heun,
    SASolver,
    UniPC,
)

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a checkpoint's network means: its schedule, its prediction, its labels; and the sampler that it came with.

    `solver` and `grid` (a name of the pipeline's) are what a call uses that says nothing.
    """

    schedule: Schedule
    prediction: Prediction
    scaling: Scaling
    solver: Solver = field(default_factory=DEIS)
    grid: str = "logistic"


PREDICTIONS: dict[str, Prediction] = {"epsilon": Eps(), "v_prediction": V(), "sample": X0(), "flow_prediction": Flow()}

MAX_TIMES = 100_000  # of a table; 4,000 is the largest of a released checkpoint

# the betas of released checkpoints, (kind, first, last): what a table is written as when it is one of them
BETAS = (
    ("scaled_linear", 0.00085, 0.012),
    ("linear", 0.0001, 0.02),
    ("scaled_linear", 0.00085, 0.03),
    ("scaled_linear", 0.00085, 0.018),
    ("scaled_linear", 0.0015, 0.0195),
    ("linear", 0.00085, 0.012),
    ("scaled_linear", 0.0001, 0.02),
    ("squaredcos_cap_v2", 0.0001, 0.02),
)


def _dpm(config: Config) -> Solver:
    order, sde = config.get("solver_order", 2), "sde" in config.get("algorithm_type", "dpmsolver++")
    if not config.get("algorithm_type", "dpmsolver++").endswith("++"):
        raise InputError(f"algorithm_type={config['algorithm_type']!r} is not read: choose a solver by name")
    if order == 1:
        return DDIM(eta=1.0) if sde else DDIM()
    return DPMpp2MSDE() if sde else DPMpp2M() if order == 2 else DPMpp3MShipped()


SAMPLERS: dict[str, Callable[[Config], Solver]] = {
    "DDPMScheduler": lambda c: DDPM(),
    "DDIMScheduler": lambda c: DDIM(),
    "PNDMScheduler": lambda c: PLMS() if c.get("skip_prk_steps") else PNDM(),
    "LMSDiscreteScheduler": lambda c: LMS(),
    "EulerDiscreteScheduler": lambda c: DDIM(),
    "EulerAncestralDiscreteScheduler": lambda c: DDIM(eta=1.0),
    "HeunDiscreteScheduler": lambda c: Heun(),
    "KDPM2DiscreteScheduler": lambda c: DPMSolver2(),
    "KDPM2AncestralDiscreteScheduler": lambda c: Ancestral(),
    "DPMSolverMultistepScheduler": _dpm,
    "DPMSolverSinglestepScheduler": lambda c: DPMpp2S(),
    "DEISMultistepScheduler": lambda c: DEIS(order=int(c.get("solver_order", 2))),
    "UniPCMultistepScheduler": lambda c: UniPC(p=int(c.get("solver_order", 2))),
    "SASolverScheduler": lambda c: SASolver(),
    "IPNDMScheduler": lambda c: IPNDM(),
    "LCMScheduler": lambda c: LCM(),
    "TCDScheduler": lambda c: TCD(),
    "FlowMatchEulerDiscreteScheduler": lambda c: Euler(),
    "FlowMatchHeunDiscreteScheduler": lambda c: Heun(),
}


# those whose code leaves out the last index, which is the step to the data
OPEN = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
)

DISTILLED = ("LCMScheduler", "TCDScheduler")  # whose code has a spacing of its own


def contract(config: Config) -> Contract:
    """Return the contract of a `scheduler_config.json`.

    Raises `InputError` for a class or a setting that is not known: a guess would give wrong pictures without a word.
    """
    kind = str(config.get("_class_name"))
    if kind not in SAMPLERS:
        raise InputError(f"the scheduler {kind!r:.60} is not known{nearest(kind, SAMPLERS)}")
    solver = SAMPLERS[kind](config)
    flow = kind.startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))
    if flow:
        if config.get("use_dynamic_shifting"):
            raise InputError("a scheduler with use_dynamic_shifting needs the picture's size: it is not read yet")
        shift = float(config.get("shift", config.get("flow_shift", 1.0)))
        return Contract(
            schedule=Rectified(shift=shift), prediction=Flow(), scaling=FlowTime(), solver=solver, grid="flow"
        )
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in PREDICTIONS:
        raise InputError(f"prediction_type={prediction!r:.60} is not known{nearest(prediction, PREDICTIONS)}")
    betas = betas_of(config)
    schedule: Schedule = Table.from_betas(betas)
    if config.get("rescale_betas_zero_snr"):
        schedule = ZeroTerminalSNR(base=schedule)
    return Contract(
        schedule=schedule,
        prediction=PREDICTIONS[prediction],
        scaling=Plain(scale=float(len(betas)), shift=-1.0),
        solver=solver,
        grid=_grid(kind, config),
    )


def betas_of(config: Config) -> Tensor:
    """Return the per-step variances float64[T] that a configuration describes."""
    trained = config.get("trained_betas")
    if trained is not None:
        return torch.tensor(list(trained), dtype=torch.float64)
    count = int(config.get("num_train_timesteps", 1000))
    if not 1 <= count <= MAX_TIMES:
        raise InputError(f"num_train_timesteps={count!r:.20} is not read: give 1 to {MAX_TIMES}")
    first, last = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    return betas(str(config.get("beta_schedule", "linear")), first, last, count)


def betas(kind: str, first: float, last: float, count: int) -> Tensor:
    """Return float64[count] variances: "linear", "scaled_linear" (of the root) or "squaredcos_cap_v2"."""
    if kind == "linear":
        return torch.linspace(first, last, count, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":  # Improved DDPM's, arXiv 2102.09672, eq. 17
        edges = torch.linspace(0, 1, count + 1, dtype=torch.float64)
        bars = torch.cos((edges + 0.008) / 1.008 * torch.pi / 2) ** 2
        return (1 - bars[1:] / bars[:-1]).clamp(max=0.999)
    raise InputError(f"beta_schedule={kind!r:.60} is not known: linear, scaled_linear or squaredcos_cap_v2")


def _grid(kind: str, config: Config) -> str:
    for flag, name in (("use_karras_sigmas", "karras-table"), ("use_lu_lambdas", "log_snr")):
        if config.get(flag):
            return name
    for flag in ("use_exponential_sigmas", "use_beta_sigmas"):
        if config.get(flag):
            raise InputError(f"a scheduler with {flag} is not read: choose a grid by name")
    if kind in DISTILLED:
        if (count := config.get("original_inference_steps", 50)) != 50:
            raise InputError(f"original_inference_steps={count!r:.20} is not read (known: 50): choose a grid by name")
        return "lcm"
    default = "leading" if kind in ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler") else "linspace"
    spacing = str(config.get("timestep_spacing", default))
    if spacing not in ("leading", "linspace", "trailing"):
        raise InputError(f"timestep_spacing={spacing!r:.60} is not known: leading, linspace or trailing")
    if spacing != "trailing" and kind in OPEN:
        return f"{spacing}-open"
    if spacing == "leading" and int(config.get("steps_offset", 0)) == 0:
        return "leading-0"
    return spacing


def describe(schedule: Schedule, prediction: Prediction) -> dict[str, Any]:
    """Return the fields of a scheduler's configuration that say what `contract` reads of it: the way back.

    The sampler is DDIM (for flows Euler), which every one of their pipelines takes. Raises `InputError` for a schedule
    that their configurations cannot say.
    """
    if isinstance(schedule, Rectified):
        if not isinstance(prediction, Flow):
            raise InputError(f"a flow with {type(prediction).__name__} prediction has no scheduler there; use Flow")
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": schedule.shift,
        }
    rescaled = isinstance(schedule, ZeroTerminalSNR)
    base = schedule.base if isinstance(schedule, ZeroTerminalSNR) else schedule
    names = {type(p): name for name, p in PREDICTIONS.items()}
    if not isinstance(base, Table) or type(prediction) not in names:
        raise InputError(
            f"{type(base).__name__} with {type(prediction).__name__} cannot be written as a scheduler's configuration: "
            "only the tables of discrete checkpoints and rectified flows can"
        )
    fields: dict[str, Any] = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": len(base.alphas_cumprod),
        "prediction_type": names[type(prediction)],
        "rescale_betas_zero_snr": rescaled,
        "timestep_spacing": "trailing" if rescaled else "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
    }
    return fields | _betas_of(base)


def _betas_of(table: Table) -> dict[str, Any]:
    count = len(table.alphas_cumprod)
    bars = torch.tensor(table.alphas_cumprod, dtype=torch.float64)
    for kind, first, last in BETAS:
        if torch.allclose(torch.cumprod(1 - betas(kind, first, last, count), 0), bars, rtol=1e-9, atol=0):
            return {"beta_schedule": kind, "beta_start": first, "beta_end": last}
    previous = torch.cat([bars.new_ones(1), bars[:-1]])
    return {"trained_betas": (1 - bars / previous).tolist()}
