"""A pipeline on disk: `sfumato.json` and `model.safetensors` in one folder.

Written aside and renamed, never over something. What is read is data: kinds are looked up among the registered
classes, the names, shapes and dtypes of the weights are compared with the configuration before a tensor is read.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from .. import __version__
from ..codecs.codec import Codec, IdentityConfig
from ..conditioning import Conditioner
from ..conditioning.depth import read_depth_model, write_depth_model
from ..control.lora import refuse_live
from ..core import CheckpointError, InputError, Preconditioned, Prediction, Scaling, Schedule, from_config, nearest
from ..core.json_file import read_json
from ..core.weights import check_header, read_cast, read_weights, specs, write_weights
from .aside import whole
from .extra import Extra
from .identity import own
from .images import Modality
from .names import Defaults
from .origin import read_origin
from .parts import modules
from .pipeline import Pipeline

FORMAT = 2
CONFIG, WEIGHTS, CODEC, DEPTH = "sfumato.json", "model.safetensors", "codec.safetensors", "depth"
MAX_NUMBER = 1 << 22  # of layers, channels, classes
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_INITIALISERS = frozenset(
    f"{name}_"
    for name in [
        "normal",
        "uniform",
        "trunc_normal",
        "zero",
        "fill",
        "mul",
        "add",
        "clamp",
        "erfinv",
        "copy",
        "bernoulli",
        "random",
        "kaiming_uniform",
        "kaiming_normal",
        "xavier_uniform",
        "xavier_normal",
        "constant",
        "zeros",
        "ones",
    ]
)
_KEYS = (
    "format_version",
    "sfumato",
    "dtype",
    "denoiser",
    "shape",
    "conditioner",
    "codec",
    "extra",
    "modality",
    "defaults",
    "references",
)


def save(pipeline: Pipeline, folder: Path) -> Path:
    """Write `pipeline` to `folder`, which must be new or empty; whole or not at all.

    Raises `InputError` for a folder that holds something and for a network whose weights do not follow from its
    configuration, `CheckpointError` where the disk refuses.
    """
    net = pipeline.denoiser.net
    refuse_live(net, *modules(pipeline.conditioner))
    config = pipeline.config()
    dtypes = sorted({str(p.dtype) for p in net.parameters()})
    if len(dtypes) > 1:
        raise InputError(f"the network's weights are of {' and '.join(dtypes)}: bring them to one, pipe.to(dtype)")
    dtype = next((p.dtype for p in net.parameters()), torch.float32)
    name = {v: k for k, v in _DTYPES.items()}.get(dtype)
    if name is None:
        raise InputError(f"weights of {dtype} cannot be written; use {', '.join(_DTYPES)}")
    state = net.state_dict()
    bounded(config["denoiser"]["net"])
    if specs(empty(from_config(config["denoiser"]["net"]), dtype).state_dict()) != specs(state):
        raise InputError(f"the weights of this {type(net).__name__} are not those that its `config` builds in {name}")
    document = {"format_version": FORMAT, "sfumato": __version__, "dtype": name, **config}
    with whole(folder) as aside:
        write_weights(aside / WEIGHTS, state, {"format": "pt", "sfumato": __version__})
        codec = own(pipeline.codec)
        if codec is not None:
            write_weights(aside / CODEC, codec.state_dict(), {"format": "pt", "sfumato": __version__})
        if hasattr(pipeline.conditioner, "save"):
            cast(Any, pipeline.conditioner).save(aside)
        if pipeline.depth_model is not None:
            write_depth_model(pipeline.depth_model, aside / DEPTH)
        if pipeline.origin is not None:
            pipeline.origin.save(aside)
        with open(aside / CONFIG, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
    return folder


class _Uninitialised(TorchFunctionMode):
    """Skips what gives values to tensors that have none; on the meta device `normal_` alone imports 800 modules."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _INITIALISERS:
            tensor = args[0] if args else (kwargs or {}).get("tensor")  # torch.nn.init hands its own on by name
            if tensor is not None and tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))


def empty(config: Any, dtype: torch.dtype | None = None) -> nn.Module:
    """Return the network of a configuration without memory for its weights, and without initialising them.

    `dtype`: of the weights; None where all of them will be replaced by a file's.
    """
    with torch.device("meta"), _Uninitialised():
        net = config.build()
        return net if dtype is None else net.to(dtype)


def described(data: Any, dtype: torch.dtype, most: int) -> Preconditioned:
    """Return the denoiser of a configuration, without its weights; `most` is how many tensors it may ask for."""
    _exact(data, ("net", "schedule", "prediction", "scaling"), "denoiser")
    bounded(data["net"])
    config = from_config(data["net"])
    if not callable(getattr(config, "build", None)):
        raise InputError(f"kind {data['net']['kind']!r} is not a network; give the kind of one")
    schedule = from_config(data["schedule"], Schedule)
    prediction = from_config(data["prediction"], Prediction)
    scaling = from_config(data["scaling"], Scaling)
    with at_most(most):
        net = empty(config, dtype)
    return Preconditioned(net, schedule, prediction, scaling)


@contextmanager
def at_most(count: int) -> Generator[None]:
    """Refuse to build a network of more parameters than the file holds: no configuration can make us build for ever."""
    thread, built = threading.get_ident(), 0

    def hook(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal built
        if threading.get_ident() == thread and parameter is not None:
            built += 1
            if built > 2 * count + 16:  # tensors that are replaced while building are counted twice
                raise CheckpointError(f"the configuration asks for more weights than the {count} of the file")

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def read(folder: Path, cast_to: torch.dtype | None = None) -> Pipeline:
    """Return the pipeline that `save` wrote, the network's parameters in the dtype `cast_to` where it is given; raise
    `CheckpointError` for a folder that is damaged.
    """
    file = folder / CONFIG
    data = read_json(file)
    if data.get("format_version") != FORMAT:
        raise CheckpointError(
            f"{file} has format_version {data.get('format_version')!r:.40}, this version reads {FORMAT}: "
            f"it was written by sfumato {data.get('sfumato')!r:.40}"
        )
    importlib.import_module("sfumato.nets")  # whose configurations register on import

    try:
        _exact(data, _KEYS, "it")
        dtype = _DTYPES.get(data["dtype"]) if isinstance(data["dtype"], str) else None
        if dtype is None:
            raise InputError(f"dtype {data['dtype']!r:.40} is not one of {', '.join(_DTYPES)}")
        shape, references = data["shape"], data["references"]
        if not isinstance(shape, list) or not all(type(v) is int and 0 < v <= 1 << 16 for v in shape):
            raise InputError(f"shape {str(shape)[:60]} is not a list of sizes")
        if not isinstance(references, list) or not all(isinstance(v, str) for v in references):
            raise InputError("references must be a list of texts")
        pipeline = Pipeline(
            denoiser=described(data["denoiser"], dtype, len(check_header(folder / WEIGHTS)[0])),
            shape=tuple(shape),
            conditioner=_conditioner(data["conditioner"], folder),
            codec=None if data["codec"] is None else _codec(data["codec"], folder),
            extra=None if data["extra"] is None else from_config(data["extra"], Extra),
            modality=from_config(data["modality"], Modality),
            defaults=from_config(data["defaults"], Defaults),
            references=tuple(references),
            depth_model=read_depth_model(folder / DEPTH) if (folder / DEPTH).is_dir() else None,
            origin=read_origin(folder),
        )
        net = pipeline.denoiser.net
        weights = read_weights(folder / WEIGHTS, specs(net.state_dict()))
        if cast_to is not None and cast_to != dtype:  # not buffers: some keep their dtype
            weights |= read_cast(folder / WEIGHTS, cast_to, (name for name, _ in net.named_parameters()))
        fill(pipeline.denoiser, weights)
    except (InputError, TypeError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{file}: {' '.join(str(error).split())[:300]}") from error
    return pipeline


def _conditioner(data: Any, folder: Path) -> Conditioner:
    """Return a conditioner: a configuration that holds text models reads them from the folder."""
    config = from_config(data)
    loaded = config.load(folder) if hasattr(config, "load") else config
    if not isinstance(loaded, Conditioner):
        raise InputError(f"kind {data.get('kind')!r:.60} is not a conditioner")
    return loaded


def _codec(data: Any, folder: Path) -> Codec:
    """Return the codec of a configuration, with its weights."""
    bounded(data)
    config = from_config(data)
    if isinstance(config, IdentityConfig):  # which has no weights
        return config.build()
    path = folder / CODEC
    known = check_header(path)[0]
    with at_most(len(known)):
        codec = empty(config)
    if not isinstance(codec, Codec):
        raise InputError(f"kind {data.get('kind')!r:.60} is not a codec")
    stored = {name: spec.dtype for name, spec in known.items() if spec.dtype in _DTYPES.values()}
    expect = {
        name: spec._replace(dtype=stored.get(name, spec.dtype)) if spec.dtype.is_floating_point else spec
        for name, spec in specs(codec.state_dict()).items()
    }
    codec.load_state_dict(read_weights(path, expect), assign=True)
    return codec.eval()


def fill(denoiser: Preconditioned, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a `described` denoiser its weights, without copying them, and switch it to evaluation."""
    denoiser.net.load_state_dict(weights, assign=True)
    if missing := [name for name, t in denoiser.net.named_buffers() if t.is_meta]:
        raise CheckpointError(f"{type(denoiser.net).__name__} needs {missing[0]!r}, which it does not save")
    denoiser.eval()


def bounded(data: Any) -> None:
    """Refuse whole numbers that no network has: a list of 10^9 layers fills the memory before a weight is made."""
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, list):
        for value in data:
            bounded(value)
    elif isinstance(data, int) and abs(data) > MAX_NUMBER:
        raise InputError(f"the network's configuration holds {data!r:.40}, more than {MAX_NUMBER}")


def _exact(data: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(data, dict):
        raise InputError(f"{where} must be a table of {', '.join(keys)}")
    for key in data:
        if key not in keys:
            raise InputError(f"{where} has no key {key[:60]!r}{nearest(key[:60], keys)}")
    if missing := [key for key in keys if key not in data]:
        raise InputError(f"{where} needs {', '.join(missing)}")
