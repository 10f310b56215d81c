"""What a PNG says about itself: the settings that made it, in three forms.

- the chunk `sfumato`: JSON with the whole request, the model's sha256 and the versions; enough to make it again;
- the chunk `parameters`: the text that the web UIs of Stable Diffusion write and read;
- XMP with IPTC's DigitalSourceType "trainedAlgorithmicMedia": a machine can tell that the picture is generated.
"""

from __future__ import annotations

import io
import json
import platform
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..core import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 1
CHUNK = "sfumato"
MAX_FILE = 64 << 20  # bytes
MAX_PIXELS = 16_800_000
MAX_SIDE = 8192
MAX_TEXT = 1 << 20
_SAMPLERS = {"DDPM": "DDPM", "DDIM": "DDIM", "Euler": "Euler", "Heun": "Heun", "DPMpp2M": "DPM++ 2M"}
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="r"?>'
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What made one picture: row `index` of the samples that `request` asks of the model with hash `model`.

    `request` holds the arguments of the call as plain data, `versions` those of the software, `device` where it ran.
    """

    request: dict[str, Any]
    index: int
    seed: int
    prompt: str | None
    model: str
    versions: dict[str, str]
    device: str
    format: int = FORMAT


def versions() -> dict[str, str]:
    """Return the versions that a picture's bits depend on."""
    return {"sfumato": __version__, "torch": torch.__version__, "python": platform.python_version()}


def parameters(settings: Settings, size: tuple[int, int]) -> str:
    """Return the settings as the web UIs write them: the prompt, then one line of `name: value` pairs."""
    request = settings.request
    solver, grid = request["solver"]["kind"], request["grid"]
    pairs: dict[str, Any] = {
        "Steps": request["steps"],
        "Sampler": _SAMPLERS.get(solver, solver),
        "Schedule type": grid.replace("_", " ").title() if isinstance(grid, str) else "Custom",
        "CFG scale": f"{request['guidance']:g}",
        "Seed": settings.seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": settings.model[:10],
        "Version": f"sfumato {settings.versions['sfumato']}",
    }
    line = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in pairs.items())
    return f"{settings.prompt or ''}\n{line}"


def parse_parameters(text: str) -> dict[str, str]:
    """Read the text of a `parameters` chunk: `Prompt`, `Negative prompt`, and the pairs of the last line."""
    *lines, last = text.strip("\n").split("\n")
    pairs = {name: _unquoted(value) for name, value in _PAIR.findall(last)}
    if len(pairs) < 3:
        lines, pairs = [*lines, last], {}
    prompt, _, negative = "\n".join(lines).partition("Negative prompt:")
    return {"Prompt": prompt.strip()} | ({"Negative prompt": negative.strip()} if negative else {}) | pairs


def encode_png(image: Image, settings: Settings | None, texts: Mapping[str, str] | None = None) -> bytes:
    """Return the picture as PNG bytes with its settings (or, without them, with the mark of generated media alone) and
    with other `texts`.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    if settings is not None:
        info.add_text("parameters", parameters(settings, image.size))
        info.add_text(CHUNK, json.dumps(asdict(settings)))
    for key, text in (texts or {}).items():
        info.add_text(key, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_text(path: str | Path) -> dict[str, str]:
    """Return the text chunks of a PNG without decoding its pixels.

    Raises `InputError` for a file that is not a PNG, is above 64 MiB, 16.8 megapixels or 8192 pixels a side, or has
    above 1 MiB of text.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE:
            raise InputError(f"{path} is {path.stat().st_size >> 20} MiB; pictures up to {MAX_FILE >> 20} MiB are read")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=("PNG",)) as image:
                if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
                    raise InputError(f"{path} has {image.width}x{image.height} pixels, more than are read")
                text = {str(k): str(v) for k, v in image.info.items() if isinstance(v, str)}
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a PNG: settings are read from the PNGs that were saved with them") from error
    except (OSError, ValueError, SyntaxError, Warning) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a PNG: {' '.join(str(error).split())[:120]}") from error
    if sum(map(len, text.values())) > MAX_TEXT:
        raise InputError(f"{path} carries more than {MAX_TEXT >> 20} MiB of text")
    return text


def read_settings(path: str | Path) -> Settings:
    """Return the settings that a PNG carries. Raises `InputError` for one that carries none, or damaged ones."""
    text = read_text(path).get(CHUNK)
    if text is None:
        raise InputError(f"{path} carries no sfumato settings; give a PNG that Output.save wrote")
    try:
        return _settings(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: its settings are damaged: {str(error)[:120]}") from error


def _settings(data: Any) -> Settings:
    names = {f.name: f for f in fields(Settings)}
    if not isinstance(data, Mapping) or set(data) != set(names):
        raise InputError(f"they need exactly {', '.join(names)}")
    if data["format"] != FORMAT:
        raise InputError(f"format {data['format']!r:.20} is not read by this version, which reads {FORMAT}")
    kinds = {"request": dict, "versions": dict, "index": int, "seed": int, "model": str, "device": str}
    for name, kind in kinds.items():
        if type(data[name]) is not kind:
            raise InputError(f"{name} must be a {kind.__name__}")
    return Settings(**data)


def _quoted(value: str) -> str:
    return json.dumps(value) if any(c in value for c in ',"\n:') else value


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value.strip()
