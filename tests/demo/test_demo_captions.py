"""The second act counts what is right: on pictures painted by hand, of which some are wrong and some are noise."""

import pytest
import torch

from sfumato import assets
from sfumato.data.tableau import paint, scene
from sfumato.demo import captions
from sfumato.demo.captions import EACH, PROMPTS, act, section, shipped
from sfumato.pipeline import Pixels

RED = {"shape": "circle", "colour": "red", "size": "large", "x": 0.5, "y": 0.5}
STARS = [
    {"shape": "star", "colour": "green", "size": "small", "x": 0.2, "y": 0.3},
    {"shape": "star", "colour": "green", "size": "small", "x": 0.2, "y": 0.7},
    {"shape": "ring", "colour": "red", "size": "large", "x": 0.68, "y": 0.5},
]
SQUARE = [
    {"shape": "square", "colour": "blue", "x": 0.5, "y": 0.25},
    {"shape": "heart", "colour": "yellow", "x": 0.5, "y": 0.72},
]
DROPS = [{"shape": "drop", "colour": "white", "size": "small", "x": 0.2 + 0.3 * k, "y": 0.5} for k in range(3)]
ARROW = [
    {"shape": "arrow", "colour": "purple", "x": 0.72, "y": 0.5},
    {"shape": "moon", "colour": "orange", "x": 0.27, "y": 0.5},
]
SLATE = {"kind": "plain", "colours": ["slate"], "angle": 0.0, "seed": 0}
TOLD = ([RED], STARS, SQUARE, DROPS, ARROW)


class Painter:
    """Right for each prompt, but for the last picture of the first and all of the third."""

    def __call__(self, prompts, n, seed):
        assert prompts == list(PROMPTS)
        x = torch.cat([paint(scene(told, SLATE), 64).expand(n, -1, -1, -1) for told in TOLD]).clone()
        x[EACH - 1] = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
        x[2 * EACH : 3 * EACH] = x[2 * EACH : 3 * EACH].flip(-2)
        return type("Output", (), {"pixels": x, "images": Pixels().images(x)})


def test_what_is_right_is_counted():
    given = act(Painter())
    assert [sum(a.right) for a in given.answers] == [EACH - 1, EACH, 0, EACH, EACH]
    assert given.answers[0].valid == (True,) * (EACH - 1) + (False,)
    summary = given.summary()["prompts"]
    assert summary[PROMPTS[2]] == {"right": 0, "valid": EACH, "of": EACH}
    page = section(given)
    assert all(f"{p}<br>" in page for p in PROMPTS)
    assert page.count("data:image/png") == len(PROMPTS)


def test_without_a_model_there_is_no_second_act(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "HOME", tmp_path)
    assert shipped() is None
    assert section(None) == ""


@pytest.mark.skipif(captions.MODEL not in assets.names(), reason="no model is shipped")
def test_the_shipped_model_answers():
    given = act(shipped())
    assert len(given.answers) == len(PROMPTS)
    assert given.seconds < 120
