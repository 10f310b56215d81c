"""`sfumato convert`: a model in another layout, with the same weights."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

DESCRIPTION = "Write a model in another layout: the same weights, bit for bit, unless --dtype says otherwise."
EPILOG = """examples:
  sfumato convert model.safetensors my-model --layout diffusers --tokenizer clip-folder
  sfumato convert my-model model.safetensors               one file, as web interfaces read
  sfumato convert my-model ours --layout sfumato --dtype float16
  sfumato convert my-model/vae vae.safetensors             an autoencoder alone
  sfumato convert old.ckpt old.safetensors --allow-pickle  weights alone, read in a child process

Nothing is overwritten. A file holds no tokenizers: give --tokenizer when reading one. What the layout of DST has no
place for is named."""
LAYOUTS = ("diffusers", "single", "sfumato")
DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", metavar="SRC", help="a folder, a .safetensors file, a run, or owner/name of the hub")
    parser.add_argument("target", metavar="DST", help="a new folder, or a new .safetensors file")
    parser.add_argument("--layout", choices=LAYOUTS, default=None, help="of DST (single for a .safetensors file)")
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="of the weights (as they are)")
    parser.add_argument("--tokenizer", metavar="DIR", default=None, help="tokenizers of a file, which has none")
    parser.add_argument("--prediction", choices=("eps", "v", "flow"), default=None, help="where SRC does not tell it")
    parser.add_argument("--picture", type=int, default=None, help="side of the pictures of a PixArt file, if not told")
    parser.add_argument("--variant", default=None, help='one of several sets of weights of SRC, as "fp16"')
    parser.add_argument("--revision", default=None, help="of a model of the hub")
    parser.add_argument("--allow-pickle", action="store_true", help="read .ckpt and .bin: weights alone, in a child")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..core import InputError
    from ..interop.pickles import convert_folder, convert_pickle
    from ..pipeline.loading import is_pickle
    from .places import of_weights, room

    source, target = Path(args.source), Path(args.target)
    single = target.suffix == ".safetensors"
    if args.layout is not None and (args.layout == "single") != single:
        raise InputError(f"--layout {args.layout} and {target.name}: one file ends in .safetensors, a folder does not")
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise InputError(f"{target} already holds something; nothing is overwritten, give a new name")
    of_weights(source, "convert reads model folders, .safetensors files and, with --allow-pickle, .ckpt and .bin")
    pickled = args.allow_pickle and (source.is_dir() or (source.is_file() and is_pickle(source)))
    with room(target.resolve().parent) as beside, tempfile.TemporaryDirectory(dir=beside) as scratch:
        if pickled:
            alone = args.layout is None and args.dtype is None
            made = target if alone else Path(scratch) / ("weights.safetensors" if source.is_file() else "model")
            left = convert_pickle(source, made) if source.is_file() else convert_folder(source, made)
            if left:
                more = f" and {len(left) - 8} more" if len(left) > 8 else ""
                print(f"note: left out: {', '.join(left[:8])}{more}", file=sys.stderr)
            if alone:
                return _wrote(target)
            source = made
        layout = args.layout or ("single" if single else None)
        if layout is None:
            raise InputError(f"say which --layout {target} shall have: {', '.join(LAYOUTS)}")
        if (source / "config.json").is_file() and _is_codec(source):
            _convert_codec(args, source, target, layout)
        else:
            _convert(args, source, target, layout)
    return _wrote(target)


def _is_codec(source: Path) -> bool:
    """Return whether a folder is that of an autoencoder alone."""
    from ..core.json_file import read_json

    return str(read_json(source / "config.json").get("_class_name")).startswith(("Autoencoder", "VQModel"))


def _convert_codec(args: argparse.Namespace, source: Path, target: Path, layout: str) -> None:
    import torch

    from ..codecs.folder import save_codec
    from ..codecs.kl import AutoencoderKL
    from ..core import InputError
    from ..core.weights import write_weights
    from ..interop.diffusers.writing import write_network
    from ..interop.links import write
    from ..interop.single import kl
    from ..pipeline import load_codec

    codec: Any = load_codec(source)
    if args.dtype is not None:
        codec = codec.to(getattr(torch, args.dtype))
    if layout == "sfumato":
        save_codec(codec, target)
    elif layout == "diffusers":
        write_network(codec, target)
    elif isinstance(codec, AutoencoderKL):  # under its authors' names, without a prefix, as they are passed on
        write_weights(target, write(kl.links(codec, ""), codec.state_dict()), {"format": "pt"})
    else:
        raise InputError(f"a {type(codec).__name__} has no layout in one file: write a folder")


def _convert(args: argparse.Namespace, source: Path, target: Path, layout: str) -> None:
    import torch

    from ..core import Eps, Flow, V
    from ..interop.single.families import sized
    from ..pipeline import load

    predictions: dict[str, Any] = {"eps": Eps(), "v": V(), "flow": Flow()}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        pipe = load(
            source,
            tokenizer=args.tokenizer,
            variant=args.variant,
            revision=args.revision,
            network=None if args.picture is None else sized(source, args.picture),
            prediction=predictions.get(args.prediction),
        )
        if args.dtype is not None:
            pipe.to(getattr(torch, args.dtype))
        if layout == "sfumato":
            pipe.save(target)
        elif layout == "diffusers":
            from ..interop.diffusers.writing import write_pipeline

            write_pipeline(pipe, target)
        else:
            from ..interop.single.writing import write_single

            write_single(pipe, target)
    for note in dict.fromkeys(str(w.message) for w in said if w.category is UserWarning):
        print(f"note: {note}", file=sys.stderr)


def _wrote(target: Path) -> int:
    files = [target] if target.is_file() else [p for p in target.rglob("*") if p.is_file()]
    print(f"{target}: {sum(p.stat().st_size for p in files):,} bytes in {len(files)} file{'s' * (len(files) != 1)}")
    return 0
