"""How captions are followed, on painters that are known: one that paints what is asked, and one that never does."""

from dataclasses import dataclass, replace

import pytest
import torch

from sfumato import InputError
from sfumato.codecs import Identity
from sfumato.data.tableau import Law, holds, paint, parse, sample_scenes, scene
from sfumato.measure import alignment
from sfumato.recipes import following
from sfumato.recipes.evaluation import Evaluation
from sfumato.recipes.following import bars, follow, unseen


@dataclass
class Painter:
    """A stand-in for a pipeline: answers each text with a painted scene of which it holds, or of which it does not."""

    lies: bool = False
    shape: tuple[int, ...] = (3, 48, 48)

    def __post_init__(self):
        self.coded, self.denoiser = Identity(), type("Net", (), {"cond": {"tokens": 0}})
        every = [unseen(60), unseen(15, Law(common=False, held_out=True))]
        self.known = {text: asked.scenes[i] for asked in every for i, text in enumerate(asked.texts)}

    def __call__(self, texts, n, seed, guidance):
        scenes = [self.answer(parse(text), text, seed + row, guidance) for row, text in enumerate(texts)]
        return type("Output", (), {"pixels": torch.cat([paint(one, 48) for one in scenes])})

    def answer(self, claims, text, seed, guidance):
        if not self.lies and guidance is None:
            return self.known[text] if text in self.known else by_hand(claims)
        some = sample_scenes(range(1000 * seed, 1000 * seed + 200))
        return some[(holds([claims] * 200, some) != self.lies).nonzero()[:1, 0]]


def by_hand(claims):
    """Return a scene of what is claimed of a few objects, and nothing else."""
    places = {"left of": (0.26, 0.5), "right of": (0.74, 0.5), "above": (0.5, 0.26), "below": (0.5, 0.74)}
    corners = [(0.27, 0.27), (0.73, 0.73), (0.27, 0.73), (0.73, 0.27)]
    for relation, a, b in claims.relations:
        x, y = places[relation]
        corners[a], corners[b] = (x, y), (1 - x, 1 - y)
    looks = [m.said for m in claims.mentions for _ in range(m.number)]
    colours = ("red", "blue", "yellow", "green")
    return scene(
        [
            {"shape": "circle", "colour": colours[k], "x": corners[k][0], "y": corners[k][1]} | look
            for k, look in enumerate(looks)
        ]
    )


def test_captions_say_all_and_are_true():
    asked = unseen(30)
    assert bool(holds(asked.claims, asked.scenes).all())
    assert all(len(m.said) == 4 for c in asked.claims for m in c.mentions)
    assert [c.number for c in asked.claims] == asked.scenes.count.tolist()
    assert asked.texts[:10] == unseen(10).texts


def test_figures_are_those_of_the_claims():
    """Of ten painted scenes the first four are shown as they are asked for, the others in another's place."""
    common, rare = unseen(10), unseen(4, Law(common=False, held_out=True))
    order = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8, 9, 4])
    pictures = [paint(common.scenes[order], 48), paint(rare.scenes, 48)]
    figures = {f.name: f for f in following._followed(pictures, (common, rare))}
    assert figures["all_captions"].value == 0.4
    assert figures["held_out_combinations"].value == 1.0
    assert sum(figures[g].n for g in ("one_object", "three_or_four_objects")) < 10
    shapes = sum(m.number for c in common.claims for m in c.mentions)
    assert figures["claims_of_shape"].n == shapes
    assert 0.4 < figures["claims_of_count"].value < 1.0
    assert figures["valid"].value == 1.0


def test_bars():
    def figure(name, value):
        return replace(alignment(torch.ones(2, dtype=torch.bool)), name=name, value=value)

    model = [figure("one_object", 0.97), figure("valid", 0.9), figure("claims_of_shape", 0.1)]
    model.append(figure("frechet_distance", 2.9))
    found = Evaluation(model=model, real=[figure("frechet_distance", 1.0)])
    assert bars(found) == {"one_object": (0.97, True), "valid": (0.97, False), "frechet_distance": (3.0, True)}


def test_other_models_are_refused():
    with pytest.raises(InputError, match="square pictures"):
        follow(replace(Painter(), shape=(2,)), 100)
    with pytest.raises(InputError, match="at least 50"):
        follow(Painter(), 5)


@pytest.mark.slow
@pytest.mark.parametrize("lies", [False, True])
def test_a_perfect_painter_and_one_that_never_does_what_is_asked(lies, monkeypatch):
    monkeypatch.setattr(following, "EACH", 12)
    found = follow(Painter(lies=lies), 60)
    model = {f.name: f.value for f in found.model}
    assert model["valid"] > 0.95
    tasks = [v for k, v in model.items() if k.startswith("task_")]
    assert len(tasks) == 8
    if lies:
        assert model["all_captions"] == 0.0
        assert max(tasks) < 0.2
    else:
        assert model["one_object"] > 0.95
        assert model["all_captions"] > 0.8
        assert min(tasks) > 0.6
        assert model["diversity"] > 0.8
    real = {f.name: f.value for f in found.real}
    assert real["one_object"] > 0.95
    reached = {name: good for name, (_, good) in bars(found).items()}
    assert reached["one_object"] != lies
    assert reached["valid"]
