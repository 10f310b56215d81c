"""A whole `scheduler_config.json`: the contract, and the sampler that a pipeline uses by default."""

from __future__ import annotations

from typing import Any

from ...core import InputError, Prediction, Schedule, Solver
from ...solvers import DDPM, LCM, LMS, PLMS, PNDM, TCD, DDPMLearned, DPMpp2M, DPMpp2MSDE, DPMpp2S, Heun, UniPC
from .scheduler import contract, describe

# the classes of samplers, and what tells them from others of the same class
WRITTEN: dict[type, dict[str, Any]] = {
    DDPM: {"_class_name": "DDPMScheduler"},
    DDPMLearned: {"_class_name": "DDPMScheduler", "variance_type": "learned_range"},
    PLMS: {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    PNDM: {"_class_name": "PNDMScheduler", "skip_prk_steps": False},
    LMS: {"_class_name": "LMSDiscreteScheduler"},
    Heun: {"_class_name": "HeunDiscreteScheduler"},
    DPMpp2M: {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "solver_order": 2},
    DPMpp2MSDE: {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 2},
    DPMpp2S: {"_class_name": "DPMSolverSinglestepScheduler"},
    UniPC: {"_class_name": "UniPCMultistepScheduler"},
    LCM: {"_class_name": "LCMScheduler"},
    TCD: {"_class_name": "TCDScheduler"},
}
KARRAS = ("Euler", "Heun", "LMS", "DPMSolver", "UniPC", "DEIS")  # those with use_karras_sigmas
EULER = {"_class_name": "EulerDiscreteScheduler"}  # DDIM on other default grids


def sampler(
    schedule: Schedule, prediction: Prediction, solver: Solver, grid: str, clip: float | None = None
) -> dict[str, Any]:
    """Return a configuration that `contract` reads as these; where it cannot, `describe`'s, whose sampler is DDIM.

    Raises `InputError` for a schedule or a prediction that no configuration of theirs can say.
    """
    said = describe(schedule, prediction, clip)
    for wanted in _candidates(said, solver, grid):
        try:
            back = contract(wanted)
        except InputError:
            continue
        if back.untaken:  # what is not read is no way to say it
            continue
        if (back.prediction, back.solver, back.grid, back.clip) == (prediction, solver, grid, clip):
            return wanted
    return said


def _candidates(said: dict[str, Any], solver: Solver, grid: str) -> list[dict[str, Any]]:
    if said["_class_name"].startswith("FlowMatch"):
        return [said, said | {"_class_name": "FlowMatchHeunDiscreteScheduler"}]
    spacing = grid.partition("-")[0]
    told: dict[str, Any] = {"timestep_spacing": spacing, "steps_offset": int(not grid.endswith("-0"))}
    if grid == "lcm":  # the class alone says it
        told = {}
    if "set_alpha_to_one" in said:
        told["set_alpha_to_one"] = True  # our last step goes to the data, not to the first entry of the table
    kind = WRITTEN.get(type(solver), {})
    if isinstance(solver, UniPC):
        kind = kind | {"solver_order": solver.p}
    if isinstance(solver, DDPM):
        kind = kind | {"variance_type": "fixed_large" if solver.variance else "fixed_small"}
    if grid == "karras-table":
        name = kind if str(kind.get("_class_name")).startswith(KARRAS) else EULER
        return [said | name | {"use_karras_sigmas": True}]
    return [said | kind | told, said | EULER | told]
