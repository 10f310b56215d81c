"""Text encoders on disk: `config.json` and safetensors in one folder, the tokenizer in another.

The class of an encoder comes from a closed list and its configuration is data: nothing in a folder can name code, ask
for a download, or have a weight left at random.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..core.errors import CheckpointError, InputError, nearest
from ..core.json_file import read_json
from ..core.weights import read_cast, reason, stored_as, write_weights
from ..interop.files import weights_in
from .tower import Tower

KINDS = {
    "CLIPTextModel": ("CLIPTextConfig", "CLIPTokenizer"),
    "CLIPTextModelWithProjection": ("CLIPTextConfig", "CLIPTokenizer"),
    "T5EncoderModel": ("T5Config", "T5Tokenizer"),
    "MT5EncoderModel": ("MT5Config", "T5Tokenizer"),
    "BertModel": ("BertConfig", "BertTokenizer"),
    "GemmaModel": ("GemmaConfig", "GemmaTokenizer"),
}
ALIASES = {"GemmaForCausalLM": "GemmaModel"}
_PREFIX = re.compile(r"^(text_model|bert|model)\.")
_IDLE = re.compile(r"(^|\.)(position_ids|inv_freq|logit_scale)$|^lm_head\.|^(bert\.)?pooler\.|^cls\.")
# what would name code or a download, make a table as long as it says, or change the form of what comes out
_DROPPED = (
    *("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation", "_name_or_path"),
    *("num_labels", "id2label", "label2id"),
    *("torch_dtype", "dtype", "return_dict", "torchscript", "output_hidden_states", "output_attentions"),
)
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
_TIED = ("shared.weight", "encoder.embed_tokens.weight")  # one table under two names
MAX_NUMBER = 1 << 22  # of tokens, widths, layers


def transformers() -> Any:
    """Return the module that text encoders come from; `InputError` where it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError('reading a text needs transformers: pip install "sfumato[text]"')
    return importlib.import_module("transformers")


def read_tower(
    folder: str | Path,
    tokenizer: str | Path,
    *,
    kind: str | None = None,
    variant: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tower:
    """Return the text encoder in `folder` with the tokenizer in another folder.

    `kind` is its class, by default the one that its `config.json` names; `variant` "fp16" takes
    `model.fp16.safetensors`. Weights stay mapped where device and dtype are those of the file. Raises `InputError` for
    a class that is not in `KINDS`, `CheckpointError` for a folder that is damaged or lacks a weight.
    """
    folder = Path(folder)
    data = read_json(folder / "config.json")
    named = data.get("architectures")
    kind = kind or (str(named[0]) if isinstance(named, list) and named else "")
    tensors, files = weights_in(folder, "model", variant)
    tower = tower_of(kind, data, tensors, read_tokenizer(tokenizer, kind), path=str(folder))
    if dtype is not None and not stored_as(tensors.values(), dtype):
        held = {name: t for file in files for name, t in read_cast(file, dtype).items()}
        tower = tower_of(kind, data, held, tower.tokenizer, path=str(folder))
    return tower.to(device, dtype)


def tower_of(
    kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], tokenizer: Any, *, path: str
) -> Tower:
    """Return the tower of a class, its configuration and its tensors, which it keeps; `path` is for messages."""
    model = blank(kind, config, most=len(tensors))
    expect = model.state_dict()
    given, unused = _named(expect, tensors)
    if _TIED[0] in expect:
        table = [given[name] for name in _TIED if name in given]
        if len(table) == 2 and not torch.equal(*table):
            raise CheckpointError(f"{path}: {_TIED[0]} and {_TIED[1]} differ, which no {kind} has")
        given.update(dict.fromkeys(_TIED if table else (), table[0] if table else torch.empty(0)))
    if missing := [name for name in expect if name not in given]:
        raise CheckpointError(f"{path} lacks {missing[0]} and {len(missing) - 1} more, which {kind} needs")
    if unused := [name for name in unused if not _IDLE.search(name)]:
        raise CheckpointError(f"{path} holds {unused[0]!r:.80}, which {kind} does not have: is it another model?")
    for name, value in given.items():
        if value.shape != expect[name].shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {list(value.shape)}, its configuration says {list(expect[name].shape)}"
            )
    rows, words = cast(Any, model).get_input_embeddings().weight.shape[0], len(tokenizer)
    if not 0.9 * rows <= words <= rows:  # released tables are padded by 1 in 1000 at most
        raise CheckpointError(
            f"{path}: its {kind} knows {rows} words, its tokenizer has {words}: give the one that it was trained with"
        )
    model.load_state_dict(given, assign=True)
    if _TIED[0] in expect:
        t5 = cast(Any, model)
        t5.encoder.embed_tokens.weight = t5.shared.weight
    model.eval().requires_grad_(False)
    if type(model).__name__.startswith("CLIP"):  # the first end token, not the largest id: the same without added ones
        _clip(model).eos_token_id = tokenizer.eos_token_id
    return Tower(model, tokenizer, _several(tokenizer))


def _several(tokenizer: Any) -> dict[int, tuple[int, ...]]:
    """Return the learned words of several vectors: word, word_1, word_2... among the tokens that were added."""
    added: dict[str, int] = tokenizer.get_added_vocab()
    found: dict[int, tuple[int, ...]] = {}
    for name, first in added.items():
        ids = [first]
        while (following := added.get(f"{name}_{len(ids)}")) is not None:
            ids.append(following)
        if len(ids) > 1:
            found[first] = tuple(ids)
    return found


def write_tower(tower: Tower, folder: str | Path, tokenizer: str | Path) -> None:
    """Write a tower as `config.json`, `model.safetensors` and a tokenizer's files; nothing is overwritten.

    Keys are those of released files: `transformers` of every version reads them.
    """
    folder, tokenizer = Path(folder), Path(tokenizer)
    for one in (folder, tokenizer):
        if one.exists() and (not one.is_dir() or any(one.iterdir())):
            raise InputError(f"{one} already holds something; nothing is overwritten, give a new folder")
    model = cast(Any, tower.model)
    kind = type(model).__name__
    state = {name: t for name, t in model.state_dict().items() if name != _TIED[1]}
    if kind == "CLIPTextModel":
        state = {"text_model." + name: t for name, t in state.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        document = model.config.to_dict() | {"architectures": [kind], "dtype": str(model.dtype).split(".")[-1]}
        (folder / "config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_weights(folder / "model.safetensors", state, {"format": "pt"})
        tower.tokenizer.save_pretrained(str(tokenizer))
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {reason(error)}") from error


def read_tokenizer(folder: str | Path, kind: str) -> Any:
    """Return the tokenizer of an encoder's class from the files in a folder; `CheckpointError` where it cannot be."""
    folder = Path(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise CheckpointError(f"{folder} holds no tokenizer: one of {', '.join(_TOKENIZER_FILES)} is needed")
    wanted = KINDS[_kind(kind)][1]
    if not suits(folder, kind):
        raise CheckpointError(f"{folder} holds a {_class_in(folder)}, a {kind} reads what a {wanted} makes: give that")
    made = getattr(transformers(), wanted)
    try:
        return made.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"cannot read the tokenizer in {folder} as a {wanted}: {said}") from error


def suits(folder: str | Path, kind: str) -> bool:
    """Return whether the tokenizer in a folder is of the class that an encoder reads, as far as the folder tells."""
    named, wanted = _class_in(Path(folder)), KINDS[_kind(kind)][1]
    return named == wanted or named not in {tokenizer for _, tokenizer in KINDS.values()}


def _class_in(folder: Path) -> str:
    """Return the class of a folder's tokenizer, "" where it does not tell."""
    file = folder / "tokenizer_config.json"
    return str(read_json(file).get("tokenizer_class") or "").removesuffix("Fast") if file.is_file() else ""


def blank(kind: str, config: Mapping[str, Any], *, most: int = 1 << 20) -> nn.Module:
    """Return a text encoder without memory for its weights; `most` is how many tensors it may ask for."""
    kind = _kind(kind)
    theirs = transformers()
    data = dict(config.get("text_config") or config) if kind.startswith("CLIP") else dict(config)
    if data.get("quantization_config") or data.get("use_attention_mask"):
        raise InputError(f"{kind} with a quantisation or an attention mask of its own is not supported")
    _bounded(data, most)
    data = {k: v for k, v in data.items() if k not in _DROPPED}
    try:
        made = getattr(theirs, KINDS[kind][0]).from_dict(data)
        with _weightless():
            return getattr(theirs, kind)(made)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"no {kind} follows from its configuration: {' '.join(str(error).split())[:200]}"
        ) from error


@contextmanager
def _weightless() -> Generator[None]:
    """Put parameters on the meta device as they are made; buffers, which no file holds, keep their values."""

    def hook(module: nn.Module, name: str, parameter: Any) -> Any:
        return None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False)

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _named(expect: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under the names that a model expects, with a prefix or without, and those it does not."""
    given: dict[str, Tensor] = {}
    unused: list[str] = []
    for name, value in tensors.items():
        bare = _PREFIX.sub("", name)
        found = next((n for n in (name, bare, "text_model." + bare) if n in expect), None)
        if found is None:
            unused.append(name)
        elif found in given:
            raise CheckpointError(f"two tensors are {found}: {name!r:.80} is one of them")
        else:
            given[found] = value
    return given, unused


def _clip(model: nn.Module) -> Any:
    return getattr(model, "text_model", model)


def _kind(kind: str) -> str:
    kind = ALIASES.get(kind, kind)
    if kind not in KINDS:
        raise InputError(f"no text encoder is called {kind!r:.60}{nearest(kind[:60], KINDS)}")
    return kind


def _bounded(data: Mapping[str, Any], most: int) -> None:
    for name, value in data.items():
        if isinstance(value, int) and abs(value) > (most if "layers" in name else MAX_NUMBER):
            raise CheckpointError(f"the configuration of a text encoder asks for {name}={value!r:.40}")
