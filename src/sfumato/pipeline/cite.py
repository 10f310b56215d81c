"""The references behind what was run: `cite(pipe)`, `cite(output)`, `cite(solver, schedule, ...)`.

One table says which publication each kind of part comes from; a new part adds its row here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ..core import InputError, Preconditioned, nearest
from .references import REFERENCES

KINDS: dict[str, tuple[str, ...]] = {
    # solvers
    "DDPM": ("ho2020ddpm",),
    "DDPMLearned": ("nichol2021improved",),
    "DDIM": ("song2021ddim",),
    "Euler": ("karras2022edm",),
    "Heun": ("karras2022edm",),
    "Churn": ("karras2022edm",),
    "DPMpp2M": ("lu2022dpmpp",),
    "DPMpp3M": ("lu2022dpmpp",),
    "DPMpp3MShipped": ("lu2022dpmpp",),
    "DPMpp2S": ("lu2022dpmpp",),
    "DPMpp3S": ("lu2022dpmpp",),
    "DPMpp2MSDE": ("lu2022dpmpp",),
    "DPMpp2SSDE": ("lu2022dpmpp",),
    "DPMpp2MHeunSDE": ("lu2022dpmpp",),
    "DPMpp3MSDE": ("lu2022dpmpp",),
    "DPMSolver2": ("lu2022dpmsolver",),
    "DPMSolver3": ("lu2022dpmsolver",),
    "DEIS": ("zhang2023deis",),
    "BH1": ("zhao2023unipc",),
    "BH2": ("zhao2023unipc",),
    "UniP": ("zhao2023unipc",),
    "UniPC": ("zhao2023unipc",),
    "SASolver": ("xue2023sasolver",),
    "Ancestral": ("song2021ddim",),
    "LMS": ("zhang2023deis",),
    "PLMS": ("liu2022pndm",),
    "PNDM": ("liu2022pndm",),
    "IPNDM": ("liu2022pndm", "zhang2023deis"),
    "RK45": ("dormand1980rk", "song2021sde"),
    "DPMAdaptive": ("lu2022dpmsolver",),
    "Restart": ("xu2023restart",),
    "PredictorCorrector": ("song2021sde",),
    "AnnealedLangevin": ("song2019ncsn",),
    "TCD": ("zheng2024tcd",),
    "LCM": ("song2023consistency", "luo2023lcm"),
    # guidance
    "ClassifierFree": ("ho2022cfg",),
    "Interval": ("kynkaanniemi2024interval",),
    "Rescale": ("lin2024flawed",),
    "DynamicThreshold": ("saharia2022imagen",),
    "Classifier": ("dhariwal2021adm",),
    "CFGpp": ("chung2025cfgpp",),
    "Autoguidance": ("karras2024bad",),
    "SkipLayer": ("hyung2025stg",),
    "TwoScale": ("brooks2023instruct",),
    # inverse problems
    "MomentMatching": ("rozet2024mmps",),
    "PiGDM": ("song2023pigdm",),
    "DDNM": ("wang2023ddnm", "zhu2023diffpir"),
    "DPS": ("chung2023dps",),
    "Replacement": ("song2021sde",),
    # schedules
    "VPLinear": ("ho2020ddpm", "song2021sde"),
    "VPScaledLinear": ("rombach2022ldm",),
    "VPCosine": ("nichol2021improved",),
    "VPSigmoid": ("jabri2023rin",),
    "SubVP": ("song2021sde",),
    "VE": ("song2021sde",),
    "Rectified": ("liu2023rectified",),
    "ZeroTerminalSNR": ("lin2024flawed",),
    # predictions and scalings
    "Eps": ("ho2020ddpm",),
    "V": ("salimans2022distillation",),
    "Flow": ("liu2023rectified",),
    "Score": ("song2021sde",),
    "Karras": ("karras2022edm",),
    "EDM": ("karras2022edm",),
    # networks
    "UNetConfig": ("ho2020ddpm", "dhariwal2021adm"),
    "EncoderConfig": ("dhariwal2021adm",),
    "DiTConfig": ("peebles2023dit",),
    "LatentUNetConfig": ("rombach2022ldm", "podell2024sdxl"),
    "MMDiTConfig": ("esser2024sd3",),
    "PixArtConfig": ("chen2024pixart", "chen2024sigma"),
    "HunyuanDiTConfig": ("li2024hunyuan",),
    "LuminaConfig": ("zhuo2024lumina",),
    "UViTConfig": ("bao2023uvit",),
    "DiffiTConfig": ("hatamizadeh2024diffit",),
    "DiffiTUNetConfig": ("hatamizadeh2024diffit",),
    # codecs
    "AutoencoderKLConfig": ("rombach2022ldm",),
    "VQModelConfig": ("esser2021vqgan",),
    "Fourier": ("tancik2020fourier",),
    # objectives
    "Denoising": ("ho2020ddpm",),
    "VLB": ("nichol2021improved",),
    "Hybrid": ("nichol2021improved",),
    "Importance": ("nichol2021improved",),
    "LearnedVariance": ("nichol2021improved",),
    "Classifying": ("dhariwal2021adm",),
    "LogNormal": ("karras2022edm",),
    "LogitNormal": ("esser2024sd3",),
    "CosMap": ("esser2024sd3",),
    "Mode": ("esser2024sd3",),
    "Ladder": ("song2019ncsn",),
    "MiniBatchOT": ("pooladian2023coupling", "tong2024coupling"),
    "Given": ("liu2023rectified",),
    "Restoration": ("bansal2023cold",),
    "TACoS": ("bansal2023cold",),
    "Naive": ("bansal2023cold",),
    "MinSNR": ("hang2023minsnr",),
    "P2": ("choi2022p2",),
    "KarrasWeight": ("karras2022edm",),
    "Sigmoid": ("kingma2023understanding",),
    # data
    "Digits": ("alpaydin1998digits",),
    "Datasaurus": ("matejka2017datasaurus",),
}


def cite(*things: Any) -> str:
    """Return BibTeX entries, by year, for all that `things` are made of: pipelines, outputs, solvers, schedules...

    A text is taken as a key of the table. Raises `InputError` for an unknown key, and with nothing to cite.
    """
    if not things:
        raise InputError("cite needs something to cite: a pipeline, an output, a solver...")
    keys = {key for thing in things for part in _parts(thing) for key in _keys(part)}
    ordered = sorted(keys, key=lambda k: (REFERENCES[k].year, k))
    return "\n\n".join(REFERENCES[key].bibtex(key) for key in ordered)


def _keys(part: Any) -> tuple[str, ...]:
    if not isinstance(part, str):
        return KINDS.get(type(part).__name__, ())
    if part in REFERENCES:
        return (part,)
    if part in KINDS:
        return KINDS[part]
    raise InputError(f"there is no reference {part!r:.60}{nearest(part[:60], REFERENCES)}")


def _parts(thing: Any) -> Iterator[Any]:
    """Yield `thing` and everything that it is made of; texts only where they are keys."""
    from .output import Output
    from .pipeline import Pipeline

    if isinstance(thing, Output):
        yield from _parts(thing.pipeline)
        yield from _kinds(thing.request)
        for option, kind in (("guidance_interval", "Interval"), ("rescale", "Rescale")):
            if thing.request[option] is not None:
                yield kind
        if thing.request["guidance"] != 1.0:
            yield "ClassifierFree"
        if thing.request["grid"] == "karras":
            yield "karras2022edm"
    elif isinstance(thing, Pipeline):
        yield from _parts(thing.denoiser)
        yield from thing.references
    elif isinstance(thing, Preconditioned):
        for part in (getattr(thing.net, "config", None), thing.schedule, thing.prediction, thing.scaling):
            yield from _parts(part)
    elif isinstance(thing, str):
        yield thing
    else:
        yield thing
        if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
            for field in dataclasses.fields(thing):
                value = getattr(thing, field.name)
                if not isinstance(value, str):
                    yield from _parts(value)


def _kinds(data: Any) -> Iterator[str]:
    """Yield the kinds of plain data that are in the table."""
    if isinstance(data, dict):
        if data.get("kind") in KINDS:
            yield str(data["kind"])
        for value in data.values():
            yield from _kinds(value)
