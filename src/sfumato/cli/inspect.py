"""`sfumato inspect`: what a model, a file of weights, a run or a picture is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DESCRIPTION = "Say what a model, a file of weights, a training run or a picture is: parts, sizes, hash, settings."
EPILOG = """examples:
  sfumato inspect model.safetensors        a checkpoint, a LoRA, an autoencoder: from its header
  sfumato inspect stable-diffusion-folder
  sfumato inspect runs/digits/20260101-120000-ab12
  sfumato inspect samples/00003-10.png --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", metavar="PATH", help="a model, a .safetensors file, a run, or a PNG")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    path = Path(args.path)
    if path.is_file() and path.suffix.lower() == ".png":
        facts = picture(path)
    elif path.is_file():
        facts = file(path)
    else:
        facts = model(path)
    if args.json:
        print(json.dumps(facts))
    else:
        _show(facts)
    return 0


def picture(path: Path) -> dict[str, Any]:
    """Return what a PNG says about itself."""
    from dataclasses import asdict

    from ..core import InputError
    from ..pipeline.metadata import CHUNK, parse_parameters, read_settings, read_text

    text = read_text(path)
    if CHUNK in text:
        return {"kind": "picture", **asdict(read_settings(path))}
    if "parameters" in text:
        return {"kind": "picture of another program", "parameters": parse_parameters(text["parameters"])}
    raise InputError(f"{path} carries no settings")


def file(path: Path) -> dict[str, Any]:
    """Return what a file of weights is, from its header."""
    from ..interop.facts import facts
    from ..pipeline.loading import pickled
    from .places import of_weights

    pickled(path)
    of_weights(path, "inspect reads models, runs, .safetensors files, and the settings in PNGs")
    return facts(path)


def model(path: Path) -> dict[str, Any]:
    """Return the facts of a pipeline or a run."""
    from ..core import InputError
    from ..pipeline import load
    from ..pipeline.identity import weights_of
    from ..pipeline.loading import located

    path = located(path)
    try:
        pipe = load(path)
    except InputError as error:
        if not (path / "config.json").is_file():
            raise
        return part(path, str(error))
    config = pipe.config()
    tensors = pipe.denoiser.net.state_dict()
    facts = {
        "kind": _kind(path),
        "parameters": sum(p.numel() for p in pipe.denoiser.net.parameters()),
        "bytes": sum(t.numel() * t.element_size() for t in tensors.values()),
        "parts": _parts(weights_of(pipe.denoiser.net, pipe.codec, pipe.conditioner, pipe.depth_model)),
        "dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
        "sha256": pipe.sha256(),
        **config.pop("denoiser"),
        **config,
    }
    if facts["kind"] == "run":
        from ..train import Run, read_metrics

        lines = read_metrics(Run(path))
        facts["trained"] = lines[-1] if lines else {}
    return facts


def part(path: Path, why: str) -> dict[str, Any]:
    """Return the facts of a part of a model in a folder with `config.json`; `why` it is none that runs alone."""
    from ..core import to_config
    from ..core.json_file import read_json
    from ..interop.diffusers.folder import read_network
    from ..interop.files import weights_in
    from ..pipeline.identity import digest

    data = read_json(path / "config.json")
    kind, settings = data.get("_class_name"), None
    if kind is None:
        kind, tensors = (data.get("architectures") or ["no class"])[0], weights_in(path, "model")[0]
    else:
        net: Any = read_network(path)
        tensors, settings = net.state_dict(), to_config(net.config)
    return {
        "kind": f"part of a model, {kind}",
        "parameters": sum(t.numel() for t in tensors.values()),
        "bytes": sum(t.numel() * t.element_size() for t in tensors.values()),
        "dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
        "sha256": digest(b"", tensors),
        "settings": settings,
        "contract": why,
    }


def _kind(path: Path) -> str:
    """Return what a folder is."""
    import json

    from .. import assets

    if not path.exists() and str(path) in assets.names():
        return "pipeline that comes with the package"
    if (path / "sfumato.json").is_file():
        return "pipeline"
    if (path / "model_index.json").is_file():
        return f"diffusers folder, {json.loads((path / 'model_index.json').read_text(encoding='utf-8'))['_class_name']}"
    return "run" if (path / "checkpoints").is_dir() else "network of a diffusers folder"


def _parts(tensors: dict[str, Any]) -> dict[str, int]:
    """Return how many numbers each part holds."""
    parts: dict[str, int] = {}
    for name, tensor in tensors.items():
        part = name.partition(":")[0] if ":" in name else "network"
        parts[part] = parts.get(part, 0) + tensor.numel()
    return parts


def _show(facts: dict[str, Any], indent: str = "") -> None:
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, dict) and "kind" in value:
            inner = ", ".join(f"{k}={_brief(v)}" for k, v in value.items() if k != "kind")
            value = f"{value['kind']}({inner})"
        elif isinstance(value, dict) and (len(value) > 6 or any(isinstance(v, dict) for v in value.values())):
            print(f"{indent}{name}")
            _show(value, indent + "  ")
            continue
        elif isinstance(value, dict):
            value = ", ".join(f"{k}={v:,}" if type(v) is int else f"{k}={_brief(v)}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        elif name in ("parameters", "bytes", "numbers", "tensors") and isinstance(value, int):
            value = f"{value:,}"
        print(f"{indent}{name:<{width}}  {value}")


def _brief(value: Any) -> str:
    """Return a value in one line; a table of many numbers by its length and its ends."""
    if isinstance(value, list) and len(value) > 8 and all(isinstance(v, (int, float)) for v in value):
        return f"[{value[0]:.6g} ... {value[-1]:.6g}: {len(value)}]"
    if isinstance(value, dict) and "kind" in value:
        return f"{value['kind']}({', '.join(f'{k}={_brief(v)}' for k, v in value.items() if k != 'kind')})"
    return str(value)
