"""Models by their name on the Hugging Face hub: the files that are needed, once, into its cache."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.json_file import read_json
from .files import holds

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}(/[\w./-]{1,200}\.safetensors)?")
PARTS = re.compile(r"unet|transformer|vae|scheduler|(text_encoder|tokenizer)(_[23])?|low_res_scheduler|depth_estimator")
# other sets of the same weights, and other frameworks' files
OTHERS = ("*.fp16*", "*.bf16*", "*.fp32*", "*.non_ema*", "*.ema*", "*.bin", "*.onnx*", "*.msgpack", "*.h5", "*.xml")
SMALL = ("*.json", "*.txt", "*.model")


def named(name: str) -> bool:
    """Return whether `name` can be a model's on the hub: "owner/name", or one file of it."""
    return NAME.fullmatch(name) is not None and ".." not in name


def fetched(name: str, revision: str | None = None, variant: str | None = None) -> Path:
    """Return the folder of a model in the hub's cache, or the file of one: only what `load` reads is fetched.

    What is cached already is used without a network. Raises `InputError` where the extra `hub` is missing, and where
    the model is neither cached nor can be fetched.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError(f'there is no {name} here; a model of the hub needs: pip install "sfumato[hub]"')
    hub: Any = importlib.import_module("huggingface_hub")
    owner, repo, *inside = name.split("/", 2)
    which = {"repo_id": f"{owner}/{repo}", "revision": revision}
    try:
        if inside:
            return Path(hub.hf_hub_download(filename=inside[0], **which))
        index = read_json(Path(hub.hf_hub_download(filename="model_index.json", **which)))
        parts = [name for name, said in index.items() if PARTS.fullmatch(name) and isinstance(said, list) and said[0]]
        parts += ["feature_extractor"] * ("depth_estimator" in parts)  # how that is shown a picture
        folder = Path(hub.snapshot_download(**which, **_patterns(parts, variant)))
        plain = [part for part in parts if variant is not None and _lacks(folder / part, variant)]
        if plain:  # a variant may be of some parts alone
            hub.snapshot_download(**which, **_patterns(plain, None))
        return folder
    except InputError:
        raise
    except Exception as error:  # the client's errors are of many libraries; all mean that it is not to be had
        at = "" if revision is None else f" at {revision}"
        raise InputError(
            f"there is no {name} on this disk, and the hub does not give it{at}: {_line(error)}; "
            "give a folder, or fetch it while there is a network"
        ) from error


def _lacks(folder: Path, variant: str) -> bool:
    """Return whether a part's folder in the cache is a model's, without weights of the variant."""
    weighs = (folder / "config.json").is_file()
    return weighs and not any(holds(folder, stem, variant) for stem in ("model", "diffusion_pytorch_model"))


def _patterns(parts: list[str], variant: str | None) -> dict[str, list[str]]:
    """Return the patterns of the files that these parts of a pipeline need."""
    ends = ["*.safetensors"] if variant is None else [f"*.{variant}.safetensors", f"*.{variant}-*.safetensors"]
    allowed = ["model_index.json", *(f"{part}/{end}" for part in parts for end in (*SMALL, *ends))]
    return {"allow_patterns": allowed, "ignore_patterns": [o for o in OTHERS if variant is None or variant not in o]}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
