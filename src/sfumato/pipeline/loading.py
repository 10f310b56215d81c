"""`sfumato.load`: what a path or a name of the hub holds decides who reads it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import assets
from ..core import CheckpointError, InputError, LearnedVariance, Preconditioned, Prediction, Schedule, SfumatoError
from .folder import CONFIG, WEIGHTS, read
from .pipeline import Pipeline

if TYPE_CHECKING:
    from ..codecs import Codec

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
MAGIC = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how zip files and pickles begin


_ODD = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: str | Path | Mapping[str, str | Path] | None = None,
    network: Any = None,
    prediction: Prediction | None = None,
    schedule: Schedule | None = None,
    codec: Codec | str | Path | None = None,
) -> Pipeline:
    """Return the pipeline in a folder or a file: ours, a training run's newest whole checkpoint, or another library's.

    A name of `sfumato.assets.names()` that is no path is the model that comes with the package, in float32.

    - `path`: our folder, a run, a diffusers folder, one `.safetensors` file in the layouts of CompVis, SGM, A1111 and
      ComfyUI or of a transformer's authors, or "owner/name" on the hub (at `revision`), whose needed files are fetched
      once and kept.
    - `variant` names one of several sets of weights ("fp16"); `device` and `dtype` are where they go, by default where
      and how they are stored. Stored ones are memory-mapped: pages come from the disk when they are used.
    - `tokenizer`: a folder with the tokenizers of a single file, which has none. `network`: the configuration of a
      file's network, where its shapes do not tell it. `prediction` and `schedule`: what the network means, where the
      file does not tell or is wrong. `codec`: an autoencoder, or its file, instead of its own.
    Raises `InputError` for what is no model that can be read, `CheckpointError` for one that is damaged.
    """
    _checked(prediction, schedule, device, dtype)
    own = None if Path(path).exists() else assets.shipped(str(path))
    if own is not None:
        path, dtype = own, torch.float32 if dtype is None else dtype  # stored in half, to be small
    path = located(path, revision, variant)
    with damaged(path):
        return _load(path, variant, device, dtype, tokenizer, network, prediction, schedule, codec)


def _load(
    path: Path,
    variant: str | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    tokenizer: str | Path | Mapping[str, str | Path] | None,
    network: Any,
    prediction: Prediction | None,
    schedule: Schedule | None,
    codec: Codec | str | Path | None,
) -> Pipeline:
    if path.is_file() and not pickled(path):
        from ..interop.single.reading import read_single

        return read_single(
            path,
            tokenizer=tokenizer,
            network=network,
            prediction=prediction,
            schedule=schedule,
            codec=codec,
            device=device,
            dtype=dtype,
        )
    if network is not None:
        raise InputError(f"network= is for single files; the configuration in {path} tells it")
    pipe = _of_folder(path, variant, prediction, schedule, device, dtype, bare=codec is not None)
    if prediction is not None or schedule is not None:
        pipe = replace(pipe, denoiser=_meant(pipe.denoiser, prediction, schedule))
    if codec is not None:
        pipe = _placed(replace(pipe, codec=_codec(codec, pipe)), device, dtype)
    return pipe


def _checked(prediction: Any, schedule: Any, device: Any, dtype: Any) -> None:
    """Raise `InputError` for arguments that are not what they must be: later, the file would be blamed."""
    parts = (
        ("prediction", prediction, "to_x0", "sf.Eps(), sf.V(), sf.X0() or sf.Flow()"),
        ("schedule", schedule, "inverse", "such as sf.VPLinear(), sf.Rectified() or a sf.Table"),
    )
    for name, value, method, known in parts:
        if value is not None and (isinstance(value, type) or not hasattr(value, method)):
            raise InputError(f"{name}={value!r:.60} is no {name}: give an object, {known}")
    if dtype not in (None, torch.float64, torch.float32, torch.bfloat16, torch.float16):
        known = "torch.float32, torch.bfloat16 or torch.float16"
        raise InputError(f"dtype={dtype!r:.60} is no dtype that networks run in: give {known}")
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (TypeError, RuntimeError, AssertionError) as error:
            said = str(error).splitlines()[0][:120]
            raise InputError(f"device={device!r:.60} cannot be used here: {said}") from error


@contextmanager
def damaged(path: Path) -> Generator[None]:
    """Turn what goes wrong with values that no configuration has into a `CheckpointError` of one line."""
    try:
        yield
    except SfumatoError:
        raise
    except _ODD as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {said}") from error


def located(path: str | Path, revision: str | None = None, variant: str | None = None) -> Path:
    """Return the path of what is on this disk, or of the hub's model in its cache."""
    from ..interop.hub import fetched, named

    if not Path(path).exists() and named(str(path)):
        return fetched(str(path), revision, variant)
    if revision is not None:
        raise InputError(f"revision={revision!r} is for models of the hub; {path} is on this disk")
    return Path(path)


def load_codec(path: str | Path, *, scale: float | None = None, shift: float = 0.0, upcast: bool = False) -> Codec:
    """Return the autoencoder in a diffusers folder (its own, or a model's `vae`), or in one `.safetensors` file.

    A file does not tell `scale`, `shift` and `upcast`: see `sfumato.codecs.kl`. Raises as `load`.
    """
    with damaged(Path(path)):
        return _load_codec(Path(path), scale, shift, upcast)


def _load_codec(path: Path, scale: float | None, shift: float, upcast: bool) -> Codec:
    if path.is_file() and not pickled(path):
        from ..interop.single.reading import read_codec

        if scale is None:
            raise InputError(
                f"{path} does not tell the scale of its latents: give scale= (0.18215 SD 1 and 2, 0.13025 XL)"
            )
        return read_codec(path, scale=scale, shift=shift, upcast=upcast)
    if scale is not None:
        raise InputError(f"scale={scale} is for single files; the configuration in {path} tells it")
    folder = next((f for f in (path, path / "vae") if (f / "config.json").is_file()), None)
    if folder is None:
        raise InputError(_refusal(path))
    from ..codecs.codec import Codec
    from ..interop.diffusers.folder import read_network

    found = read_network(folder)
    if not isinstance(found, Codec):
        raise InputError(f"{folder} holds a {type(found).__name__}, which is no codec")
    return found


def _of_folder(
    path: Path,
    variant: str | None,
    prediction: Prediction | None,
    schedule: Schedule | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    bare: bool,
) -> Pipeline:
    if (path / "model_index.json").is_file() and not (path / CONFIG).is_file():
        from ..interop.diffusers.folder import read_pipeline

        place: dict[str, Any] = {"variant": variant, "device": device, "dtype": dtype}
        return read_pipeline(path, **place, prediction=prediction, schedule=schedule, bare=bare)
    if (path / CONFIG).is_file():
        pipe = read(path, dtype)
    elif (path / "checkpoints").is_dir():
        from ..recipes.run import pipeline_of_run

        pipe = pipeline_of_run(path)
    elif (path / "config.json").is_file():
        from ..interop.diffusers.alone import read_alone

        pipe = read_alone(path, variant=variant, prediction=prediction, schedule=schedule)
    else:
        raise InputError(_refusal(path))
    return _placed(pipe, device, dtype)


def _meant(denoiser: Preconditioned, prediction: Prediction | None, schedule: Schedule | None) -> Preconditioned:
    said = denoiser.prediction if prediction is None else prediction
    if isinstance(denoiser.prediction, LearnedVariance) and not isinstance(said, LearnedVariance):
        said = LearnedVariance(prediction=said)
    return Preconditioned(denoiser.net, schedule or denoiser.schedule, said, denoiser.scaling)


def _codec(codec: Codec | str | Path, pipe: Pipeline) -> Codec:
    if not isinstance(codec, (str, Path)):
        return codec
    own: Any = getattr(pipe.codec, "config", None)
    if Path(codec).is_file() and hasattr(own, "scale"):
        return load_codec(codec, scale=own.scale, shift=own.shift, upcast=own.upcast)
    if Path(codec).is_file() and not pickled(Path(codec)):
        raise InputError(
            f"{codec} does not tell the scale of its latents, and the model has no autoencoder that does: "
            "give codec=sf.load_codec(file, scale=...)"
        )
    return load_codec(codec)


def _placed(pipe: Pipeline, device: torch.device | str | None, dtype: torch.dtype | None) -> Pipeline:
    for target in (device, dtype):
        if target is not None:
            pipe.to(target)
    return pipe


def pickled(path: Path) -> bool:
    """Raise `InputError` for a pickle, under whatever name."""
    if is_pickle(path):
        raise InputError(_remedy(path))
    return False


def is_pickle(path: Path) -> bool:
    """Return whether a file is a pickle, by its name or by how it begins."""
    with open(path, "rb") as file:
        return file.read(2) in MAGIC or path.suffix.lower() in PICKLES


def _remedy(path: Path) -> str:
    new = f"{path.stem}-weights" if path.suffix == ".safetensors" else path.stem
    return (
        f"{path} is a pickle, which can run code when it is read: "
        f"`sfumato convert {path.name} {new}.safetensors --allow-pickle` takes its weights alone"
    )


def _refusal(path: Path) -> str:
    """Say in one line why `path` is not loaded."""
    if not path.exists():
        known = ", ".join(assets.names()) or "no model yet"
        return f"there is no {path}" + (f"; with the package comes {known}" if len(path.parts) == 1 else "")
    names = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    if pickled := [n for n in names if n.lower().endswith(PICKLES)]:
        return _remedy(path / pickled[0])
    whole = [n for n in names if n.endswith(".safetensors")]
    more = f"; give one of its files: {', '.join(whole[:3])}" if whole else ""
    return f"{path} holds no model ({CONFIG} + {WEIGHTS}, a run, or model_index.json){more}"
