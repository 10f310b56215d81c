"""`sfumato inspect`: what a model, a run or a picture is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DESCRIPTION = "Say what a model, a training run or a picture is: parts, sizes, hash, settings."
EPILOG = """examples:
  sfumato inspect runs/digits/20260101-120000-ab12
  sfumato inspect samples/00003-10.png --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", metavar="PATH", help="a model folder, a run, or a PNG")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    path = Path(args.path)
    facts = picture(path) if path.is_file() and path.suffix.lower() == ".png" else model(path)
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


def model(path: Path) -> dict[str, Any]:
    """Return the facts of a pipeline or a run."""
    from ..pipeline import load

    pipe = load(path)
    config = pipe.config()
    tensors = pipe.denoiser.net.state_dict()
    facts = {
        "kind": "pipeline" if (path / "sfumato.json").is_file() else "run",
        "parameters": sum(p.numel() for p in pipe.denoiser.net.parameters()),
        "bytes": sum(t.numel() * t.element_size() for t in tensors.values()),
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


def _show(facts: dict[str, Any]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict) and "kind" in value:
            inner = ", ".join(f"{k}={v}" for k, v in value.items() if k != "kind")
            value = f"{value['kind']}({inner})"
        elif isinstance(value, dict):
            value = ", ".join(f"{k}={v}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        elif name in ("parameters", "bytes") and isinstance(value, int):
            value = f"{value:,}"
        print(f"{name:<{width}}  {value}")
