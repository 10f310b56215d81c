"""A hundred swaps of the sampler: five kinds of checkpoint by twenty samplers, ours and diffusers', exact models.

The model is the network that a perfectly trained checkpoint of Gaussian data would be: it answers at the checkpoint's
own time labels, in its own prediction, on its own schedule. For diffusers, the sampler is swapped as its documentation
says, `Target.from_config(checkpoint.config)`; for Sfumato, `solver=` is another object and nothing else changes. Fifty
steps each. A run is right where mean and standard deviation of the samples are within 0.06 of the data's, refused
where it raises, and wrong where it finishes with anything else.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections import Counter
from typing import Any

import torch
from harness import write
from torch import Tensor, nn

import sfumato as sf
from sfumato.pipeline.names import SOLVERS, grid_of

MEAN, STD, STEPS, BAR = 0.3, 0.5, 50, 0.06
SHAPE = (2048, 1, 2, 2)
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

# the sampler of the published checkpoint with its settings, and what the checkpoint is to us
CHECKPOINTS: dict[str, tuple[str, dict[str, Any], sf.Schedule, sf.Prediction]] = {
    "Stable Diffusion 1.5": (
        "PNDMScheduler",
        LATENT | {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False},
        sf.Table.from_betas(BETAS),
        sf.Eps(),
    ),
    "Stable Diffusion 2.1": (
        "DDIMScheduler",
        LATENT
        | {"prediction_type": "v_prediction", "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False},
        sf.Table.from_betas(BETAS),
        sf.V(),
    ),
    "SDXL": (
        "EulerDiscreteScheduler",
        LATENT | {"timestep_spacing": "leading", "steps_offset": 1},
        sf.Table.from_betas(BETAS),
        sf.Eps(),
    ),
    "Stable Diffusion 3": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, sf.Rectified(shift=3.0), sf.Flow()),
    "Wan 2.1": (
        "UniPCMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
        sf.Rectified(shift=3.0),
        sf.Flow(),
    ),
}

# their class and settings, and our name for the same method
TARGETS: list[tuple[str, dict[str, Any], str]] = [
    ("DDPMScheduler", {}, "ddpm"),
    ("DDIMScheduler", {}, "ddim"),
    ("PNDMScheduler", {}, "pndm"),
    ("IPNDMScheduler", {}, "ipndm"),
    ("LMSDiscreteScheduler", {}, "lms"),
    ("EulerDiscreteScheduler", {}, "euler"),
    ("EulerAncestralDiscreteScheduler", {}, "euler-ancestral"),
    ("HeunDiscreteScheduler", {}, "heun"),
    ("KDPM2DiscreteScheduler", {}, "dpm2"),
    ("KDPM2AncestralDiscreteScheduler", {}, "dpm2-ancestral"),
    ("DPMSolverMultistepScheduler", {}, "dpm++2m"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "dpm++2m-sde"),
    ("DPMSolverSinglestepScheduler", {}, "dpm++2s"),
    ("DEISMultistepScheduler", {}, "deis"),
    ("UniPCMultistepScheduler", {}, "unipc"),
    ("SASolverScheduler", {}, "sa"),
    ("EDMEulerScheduler", {}, "euler"),
    ("EDMDPMSolverMultistepScheduler", {}, "dpm++2m"),
    ("FlowMatchEulerDiscreteScheduler", {}, "euler"),
    ("FlowMatchHeunDiscreteScheduler", {}, "heun"),
]


class Exact(nn.Module):
    """The perfect checkpoint: net(x, label) on the checkpoint's schedule, with labels 1000 t - 1 or 1000 sigma."""

    def __init__(self, schedule: sf.Schedule, prediction: sf.Prediction) -> None:
        super().__init__()
        self.cond: dict[str, Any] = {}
        self.schedule, self.prediction = schedule, prediction

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        label = torch.as_tensor(label, dtype=torch.float64).reshape(-1)
        if isinstance(self.schedule, sf.Rectified):
            sigma = (label / 1000).clamp(1e-6, 1)
            alpha = 1 - sigma
        else:
            alpha, sigma = self.schedule(((label + 1) / 1000).clamp(1e-6, 1))
        alpha, sigma = (v.reshape(-1, 1, 1, 1) for v in (alpha, sigma))
        x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x.double() - alpha * MEAN)
        return self.prediction.target(x0, (x.double() - alpha * x0) / sigma, alpha, sigma).to(x.dtype)


class Label:
    """The label that the checkpoint was trained with: 1000 sigma of a flow, and the table's index otherwise."""

    def __call__(self, t: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
        return 1.0, 1000.0 * sigma


def theirs(checkpoint: str, target: str, settings: dict[str, Any]) -> Tensor:
    """Swap as the documentation says, then the loop of every pipeline."""
    import diffusers

    name, config, schedule, prediction = CHECKPOINTS[checkpoint]
    scheduler = getattr(diffusers, target).from_config(getattr(diffusers, name).from_config(config).config, **settings)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(0)
    net = Exact(schedule, prediction)
    x = torch.randn(SHAPE, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        inside = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(inside, t), t, x).prev_sample
    return x


def ours(checkpoint: str, solver: str) -> Tensor:
    """Swap the solver."""
    _, _, schedule, prediction = CHECKPOINTS[checkpoint]
    scaling = Label() if isinstance(schedule, sf.Rectified) else sf.Plain(scale=1000.0, shift=-1.0)
    denoiser = sf.Preconditioned(Exact(schedule, prediction), schedule, prediction, scaling)
    grid = grid_of("karras", schedule, STEPS, STEPS)
    return sf.sample(denoiser, SHAPE, solver=SOLVERS[solver], grid=grid, seeds=range(SHAPE[0]))


def judged(run: Any, *arguments: Any) -> tuple[str, str]:
    """Return (right, refused or wrong; the figures or the message)."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            x = run(*arguments).double()
    except Exception as error:
        return "refused", f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    mean, std = float(x.mean()), float(x.std())
    good = abs(mean - MEAN) <= BAR and abs(std - STD) <= BAR
    return ("right" if good else "wrong"), f"mean {mean:.3f}, std {std:.3f}"


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    counts = {"diffusers": Counter[str](), "sfumato": Counter[str]()}
    rows = []
    for checkpoint in CHECKPOINTS:
        for target, settings, solver in TARGETS:
            found = {
                "diffusers": judged(theirs, checkpoint, target, settings),
                "sfumato": judged(ours, checkpoint, solver),
            }
            for who, (verdict, _) in found.items():
                counts[who][verdict] += 1
            rows.append({"checkpoint": checkpoint, "target": target, "solver": solver, **found})
            told = " | ".join(f"{who} {verdict}: {note}" for who, (verdict, note) in found.items())
            print(f"{checkpoint:<21} {target.removesuffix('Scheduler'):<27} {told}", flush=True)
    for who, count in counts.items():
        print(f"{who}: {count['right']} right, {count['refused']} refused, {count['wrong']} wrong of {count.total()}")
    write(rows)
    sys.exit(1 if counts["sfumato"]["wrong"] else 0)


if __name__ == "__main__":
    main()
