"""`scheduler_config.json`: what a checkpoint's numbers mean (its contract), and the sampler that it came with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
    DDPMLearned,
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
Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a checkpoint's network means: its schedule, its prediction, its labels; and the sampler that it came with.

    `solver` and `grid` (a name of the pipeline's) are what a call uses that says nothing, `clip` is the bound of
    x0_hat in each step, and `untaken` says what of the sampler is not read, whose place the usual one has.
    """

    schedule: Schedule
    prediction: Prediction
    scaling: Scaling
    solver: Solver = field(default_factory=DEIS)
    grid: str = "logistic"
    clip: float | None = None
    untaken: tuple[str, ...] = ()


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


# by variance_type; "learned" and "fixed_large_log" are no variances that the code of theirs samples with
VARIANCES: dict[str, Solver] = {
    "fixed_small": DDPM(),
    "fixed_small_log": DDPM(),  # the same number by another way
    "fixed_large": DDPM(variance=1.0),
    "learned_range": DDPMLearned(),
}


def _ddpm(config: Config) -> Solver:
    kind = str(config.get("variance_type", "fixed_small"))
    if kind not in VARIANCES:
        raise InputError(f"variance_type={kind!r:.60} is not read")
    return VARIANCES[kind]


def _dpm(config: Config) -> Solver:
    kind, order = str(config.get("algorithm_type", "dpmsolver++")), _whole(config, "solver_order", 2)
    if kind not in ("dpmsolver++", "sde-dpmsolver++"):
        raise InputError(f"algorithm_type={kind!r:.60} is not read")
    if order not in (1, 2, 3):
        raise InputError(f"solver_order={order!r:.20} is not read")
    sde = kind.startswith("sde")
    if order == 1:
        return DDIM(eta=1.0) if sde else DDIM()
    return DPMpp2MSDE() if sde else DPMpp2M() if order == 2 else DPMpp3MShipped()


def _single_step(config: Config) -> Solver:
    kind, order = str(config.get("algorithm_type", "dpmsolver++")), _whole(config, "solver_order", 2)
    if (kind, order) != ("dpmsolver++", 2):
        raise InputError(f"algorithm_type={kind!r:.60} with solver_order={order!r:.20} is not read")
    return DPMpp2S()


SAMPLERS: dict[str, Callable[[Config], Solver]] = {
    "DDPMScheduler": _ddpm,
    "DDIMScheduler": lambda c: DDIM(),
    "PNDMScheduler": lambda c: PLMS() if c.get("skip_prk_steps") else PNDM(),
    "LMSDiscreteScheduler": lambda c: LMS(),
    "EulerDiscreteScheduler": lambda c: DDIM(),
    "EulerAncestralDiscreteScheduler": lambda c: DDIM(eta=1.0),
    "HeunDiscreteScheduler": lambda c: Heun(),
    "KDPM2DiscreteScheduler": lambda c: DPMSolver2(),
    "KDPM2AncestralDiscreteScheduler": lambda c: Ancestral(),
    "DPMSolverMultistepScheduler": _dpm,
    "DPMSolverSinglestepScheduler": _single_step,
    "DEISMultistepScheduler": lambda c: DEIS(order=_whole(c, "solver_order", 2)),
    "UniPCMultistepScheduler": lambda c: UniPC(p=_whole(c, "solver_order", 2)),
    "SASolverScheduler": lambda c: SASolver(),
    "IPNDMScheduler": lambda c: IPNDM(),
    "LCMScheduler": lambda c: LCM(),
    "TCDScheduler": lambda c: TCD(),
    "FlowMatchEulerDiscreteScheduler": lambda c: Euler(),
    "FlowMatchHeunDiscreteScheduler": lambda c: Heun(),
}

ALIASES = {"DDPMParallelScheduler": "DDPMScheduler", "DDIMParallelScheduler": "DDIMScheduler"}  # the same, in batches

# those whose networks are on the table of betas, as all of the above, by a sampler that is not ours
TABLED = ("DPMSolverSDEScheduler", "RePaintScheduler", "DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler")

# those whose networks are told a function of sigma, which no field of theirs says
LEVELLED = (
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
    "CosineDPMSolverMultistepScheduler",
    "CMStochasticIterativeScheduler",
    "KarrasVeScheduler",
    "ScoreSdeVeScheduler",
)

# those that clip x0_hat, with what they do where the field is left out
CLIPS = {
    "DDPMScheduler": True,
    "DDIMScheduler": True,
    "DDIMInverseScheduler": True,
    "RePaintScheduler": True,
    "HeunDiscreteScheduler": False,
    "LCMScheduler": False,
    "TCDScheduler": False,
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


def known(kind: str) -> bool:
    """Return whether a class of theirs says what its networks mean, in a way that is read or refused by name."""
    return kind in SAMPLERS or kind in ALIASES or kind in TABLED or kind in LEVELLED


def contract(config: Config, *, prediction: Prediction | None = None, schedule: Schedule | None = None) -> Contract:
    """Return the contract of a `scheduler_config.json`; a prediction and a schedule that are given come first.

    Raises `InputError` for a class or a setting that says what the network means and is not known: a guess would give
    wrong pictures without a word. A sampler is a default alone: the usual one stands for what is not read of it.
    """
    kind = str(config.get("_class_name"))
    kind = ALIASES.get(kind, kind)
    if not known(kind):
        raise InputError(
            f"the scheduler {kind!r:.60} is not known, and with it what the network means: "
            "give prediction= (--prediction) and schedule="
        )
    label = str(config.get("timestep_type", "discrete"))
    named = str(config.get("prediction_type", "epsilon"))
    if kind in LEVELLED or (label == "continuous" and named == "v_prediction"):
        what = kind if kind in LEVELLED else f"{kind} with timestep_type={label!r}"
        raise InputError(f"{what} is of an EDM formulation (its network is told sigma), which is not read yet")
    if kind in TABLED:
        said = _table(config, named, prediction, schedule)
        lost = f"the sampler of {kind} is not read: solver and grid are the usual ones unless a call names them"
        return Contract(
            schedule=said[0], prediction=said[1], scaling=said[2], clip=_clip(kind, config), untaken=(lost,)
        )
    if kind in DISTILLED and (count := config.get("original_inference_steps", 50)) != 50:
        # no default: the times that the network was distilled at
        raise InputError(f"original_inference_steps={count!r:.20} is not read (known: 50)")
    untaken: list[str] = []
    flow = kind.startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))
    solver = _or(Euler() if flow else DEIS(), untaken, "solver", lambda: SAMPLERS[kind](config))
    grid = _or("flow" if flow else "logistic", untaken, "grid", lambda: _grid(kind, config, flow))
    said = _flow(kind, config, prediction, schedule) if flow else _table(config, named, prediction, schedule)
    return Contract(
        schedule=said[0],
        prediction=said[1],
        scaling=said[2],
        solver=solver,
        grid=grid,
        clip=_clip(kind, config),
        untaken=tuple(untaken),
    )


def _or(usual: Read, untaken: list[str], what: str, read: Callable[[], Read]) -> Read:
    """Return what `read` does, or the `usual` with a word in `untaken`."""
    try:
        return read()
    except InputError as error:
        name = usual if isinstance(usual, str) else type(usual).__name__
        untaken.append(f"{error}: the {what} is {name} unless a call names one")
        return usual


def _flow(
    kind: str, config: Config, prediction: Prediction | None, schedule: Schedule | None
) -> tuple[Schedule, Prediction, Scaling]:
    named = str(config.get("prediction_type", "flow_prediction"))
    if prediction is None and named != "flow_prediction" and not kind.startswith("FlowMatch"):
        raise InputError(f"prediction_type={named!r:.60} with use_flow_sigmas is not read: give prediction=")
    if config.get("invert_sigmas"):
        raise InputError("a scheduler with invert_sigmas is not read: its network is told the times of noise backwards")
    if (count := _whole(config, "num_train_timesteps", 1000)) != 1000:
        raise InputError(f"num_train_timesteps={count!r:.20} of a flow is not read (known: 1000)")
    if schedule is None:
        if config.get("use_dynamic_shifting"):
            raise InputError("a scheduler with use_dynamic_shifting needs the picture's size: give schedule=")
        shift = _number(config, "shift" if "shift" in config else "flow_shift", 1.0)
        schedule = Rectified(shift=shift)
    return schedule, prediction or Flow(), FlowTime()


def _table(
    config: Config, named: str, prediction: Prediction | None, schedule: Schedule | None
) -> tuple[Schedule, Prediction, Scaling]:
    if prediction is None:
        if named not in PREDICTIONS:
            raise InputError(f"prediction_type={named!r:.60} is not known{nearest(named, PREDICTIONS)}")
        prediction = PREDICTIONS[named]
    trained = config.get("trained_betas")
    count = len(trained) if isinstance(trained, list) else _count(config)
    if schedule is None:
        schedule = Table.from_betas(betas_of(config))
        if config.get("rescale_betas_zero_snr"):
            schedule = ZeroTerminalSNR(base=schedule)
    return schedule, prediction, Plain(scale=float(count), shift=-1.0)


def _clip(kind: str, config: Config) -> float | None:
    """Return the bound of x0_hat in each step, None where it has none."""
    if config.get("thresholding"):
        # up to 1, their default, it is a clip: the quantile lies between 1 and the largest value
        if (most := _number(config, "sample_max_value", 1.0)) != 1.0:
            raise InputError(
                f"thresholding up to sample_max_value={most:.6g} is not read (known: 1): set thresholding to false, "
                "and sample through sfumato.guidance.DynamicThreshold"
            )
        return 1.0
    if kind in CLIPS and config.get("clip_sample", CLIPS[kind]):
        return _number(config, "clip_sample_range", 1.0)
    return None


def _number(config: Config, name: str, usual: float) -> float:
    value = config.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{name}={value!r:.60} is no number")
    return float(value)


def _whole(config: Config, name: str, usual: int) -> int:
    value = _number(config, name, usual)
    if value != int(value):
        raise InputError(f"{name}={value!r:.60} is no whole number")
    return int(value)


def _count(config: Config) -> int:
    count = _whole(config, "num_train_timesteps", 1000)
    if not 1 <= count <= MAX_TIMES:
        raise InputError(f"num_train_timesteps={count!r:.20} is not read: give 1 to {MAX_TIMES}")
    return count


def betas_of(config: Config) -> Tensor:
    """Return the per-step variances float64[T] that a configuration describes."""
    trained = config.get("trained_betas")
    if trained is not None:
        if not isinstance(trained, list) or not all(isinstance(beta, (int, float)) for beta in trained):
            raise InputError(f"trained_betas={trained!r:.60} is no list of numbers")
        return torch.tensor(trained, dtype=torch.float64)
    first, last = _number(config, "beta_start", 0.0001), _number(config, "beta_end", 0.02)
    return betas(str(config.get("beta_schedule", "linear")), first, last, _count(config))


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


def _grid(kind: str, config: Config, flow: bool) -> str:
    if flow:
        for flag in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
            if config.get(flag):
                raise InputError(f"a flow's scheduler with {flag} is not read")
        return "flow"
    for flag, name in (("use_karras_sigmas", "karras-table"), ("use_lu_lambdas", "log_snr")):
        if config.get(flag):
            return name
    for flag in ("use_exponential_sigmas", "use_beta_sigmas"):
        if config.get(flag):
            raise InputError(f"a scheduler with {flag} is not read")
    if kind in DISTILLED:
        return "lcm"
    default = "leading" if kind in ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler") else "linspace"
    spacing = str(config.get("timestep_spacing", default))
    if spacing not in ("leading", "linspace", "trailing"):
        raise InputError(f"timestep_spacing={spacing!r:.60} is not read (known: leading, linspace, trailing)")
    if spacing != "trailing" and kind in OPEN:
        return f"{spacing}-open"
    if spacing == "leading" and _whole(config, "steps_offset", 0) == 0:
        return "leading-0"
    return spacing


def describe(schedule: Schedule, prediction: Prediction, clip: float | None = None) -> dict[str, Any]:
    """Return the fields of a scheduler's configuration that say what `contract` reads of it: the way back.

    The sampler is DDIM (for flows Euler), which every one of their pipelines takes. Raises `InputError` for a schedule
    that their configurations cannot say.
    """
    if isinstance(schedule, Rectified):
        if clip is not None:
            raise InputError(f"a flow's configuration cannot say clip={clip}: use with_defaults(clip=None)")
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
        "clip_sample": clip is not None,
    }
    if clip is not None:
        fields["clip_sample_range"] = clip
    return fields | _betas_of(base)


def _betas_of(table: Table) -> dict[str, Any]:
    count = len(table.alphas_cumprod)
    bars = torch.tensor(table.alphas_cumprod, dtype=torch.float64)
    for kind, first, last in BETAS:
        if torch.allclose(torch.cumprod(1 - betas(kind, first, last, count), 0), bars, rtol=1e-9, atol=0):
            return {"beta_schedule": kind, "beta_start": first, "beta_end": last}
    previous = torch.cat([bars.new_ones(1), bars[:-1]])
    return {"trained_betas": (1 - bars / previous).tolist()}
