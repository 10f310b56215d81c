"""Entries of a call's `control` read from files: what a file holds decides how it steers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..control.controlnet import ControlNet
from ..control.sd3_controlnet import SD3ControlNet
from ..control.t2i_adapter import T2IAdapter
from ..core import InputError
from .loading import damaged, pickled
from .steering import ByAdapter, ByControlNet, ByImage


def read_control(
    path: str | Path, picture: Any, *, scale: float = 1.0, start: float = 0.0, end: float = 1.0
) -> ByControlNet | ByAdapter:
    """Return the control network at `path` with its picture: a ControlNet or a T2I-Adapter in a folder of diffusers',
    or a ControlNet in one file of its authors' layout.

    Raises `InputError` for what is no control network, `CheckpointError` for one that is damaged.
    """
    from ..interop.diffusers.folder import read_network
    from ..interop.single.controlnet import read_controlnet

    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no {path}: give a control network's folder or file")
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"{path} is no control network's folder, which has a config.json: give one of its kind")
    with damaged(path):
        net = read_controlnet(path) if path.is_file() and not pickled(path) else read_network(path)
    if isinstance(net, T2IAdapter):
        if start != 0.0:
            raise InputError(f"{path} is an adapter, which steers from the first step on: give a start of 0")
        return ByAdapter(net=net, hint=picture, scale=scale, end=end)
    if not isinstance(net, (ControlNet, SD3ControlNet)):
        raise InputError(f"{path} holds a {type(net).__name__}, which steers nothing: give a control network")
    return ByControlNet(net=net, hint=picture, scale=scale, start=start, end=end)


def read_image_prompt(
    path: str | Path, picture: Any, host: nn.Module, tower: str | Path, *, scale: float | Mapping[str, float] = 1.0
) -> ByImage:
    """Return the IP-Adapter in one file for the network `host`, with the picture that it is shown and the folder of the
    encoder that reads it. Raises as `read_ip_adapter` and `read_image_tower`, and `InputError` for adapters of faces.
    """
    from ..conditioning.vision import read_image_tower
    from ..interop.ip_adapter import read_ip_adapter

    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no {path}: give an adapter's file")
    with damaged(path):
        adapter, lora = read_ip_adapter(path, host)
        if lora is not None:
            raise InputError(f"{path} is an adapter of faces, which reads features of another network: see `ByImage`")
        return ByImage(adapter=adapter, image=picture, tower=read_image_tower(tower), scale=scale)
