"""The demo's second act: the text-to-image model that comes with the package, and what an oracle reads in it."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass
from typing import Any

from .. import assets
from ..data.tableau import holds, parse
from ..data.tableau.oracle import read
from ..data.tableau.relations import SLACK
from ..pipeline import Pipeline, load
from ..pipeline.images import contact_sheet
from .figures import png

MODEL = "tableau"
PROMPTS = (
    "a large red circle",
    "two green stars left of a large red ring",
    "a blue square above a yellow heart",
    "three white drops on a slate background",
    "一个紫色箭头在一个橙色月牙右边",
)
EACH = 4


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prompt, its pictures as a data URL, which of them are right, and which the oracle can explain at all."""

    prompt: str
    pictures: str
    right: tuple[bool, ...]
    valid: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Act:
    """The answers, and the seconds that drawing all of them took."""

    answers: tuple[Answer, ...]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Return the scores as plain data."""
        scores = {a.prompt: {"right": sum(a.right), "valid": sum(a.valid), "of": len(a.right)} for a in self.answers}
        return {"prompts": scores, "seconds": round(self.seconds, 1)}


def shipped() -> Pipeline | None:
    """Return the model that comes with the package, None where none does."""
    return load(MODEL) if MODEL in assets.names() else None


def act(pipe: Pipeline) -> Act:
    """Return the model's answers to the prompts, read back."""
    began = time.monotonic()
    out = pipe(list(PROMPTS), n=EACH, seed=0)
    seconds = time.monotonic() - began
    reading = read(out.pixels.float().clamp(-1, 1))
    right = holds([parse(prompt) for prompt in PROMPTS for _ in range(EACH)], reading.scenes, SLACK).tolist()
    images, valid = out.images, reading.valid.tolist()
    answers: list[Answer] = []
    for k, prompt in enumerate(PROMPTS):
        rows = slice(k * EACH, (k + 1) * EACH)
        sheet = png(contact_sheet(images[rows], EACH, 96))
        answers.append(Answer(prompt=prompt, pictures=sheet, right=tuple(right[rows]), valid=tuple(valid[rows])))
    return Act(answers=tuple(answers), seconds=seconds)


def section(given: Act | None) -> str:
    """Return the act as a section of the page, nothing where there was none."""
    if given is None:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(a.prompt)}<br><img src='{a.pictures}' alt='four pictures of this prompt'></td>"
        f"<td>{sum(a.right)} of {len(a.right)}</td><td>{sum(a.valid)} of {len(a.valid)}</td></tr>"
        for a in given.answers
    )
    return (
        "<section><h2>Second act: words</h2><p>A text-to-image model comes with the package. It was trained on painted "
        "scenes whose truth can be read back from any picture by an oracle that has learned nothing. None of these is "
        "chosen: the seeds run on. Right: everything that the prompt says holds. The model is small, and had seven "
        "hours of one core: colours, grounds and sizes mostly follow the words, most shapes do not yet.</p>"
        f"<table><tr><th>prompt</th><th>right</th><th>valid</th></tr>{rows}</table></section>"
    )
