"""How captions are followed, on painters that are known: one that paints what is asked, and one that never does."""

from dataclasses import dataclass, replace

import pytest
import torch

from sfumato import InputError
from sfumato.codecs import Identity
from sfumato.data.tableau import Law, holds, paint, parse, sample_scenes
from sfumato.recipes import following
from sfumato.recipes.following import follow, unseen


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
        found = []
        for row, text in enumerate(texts):
            claims, scenes, start = parse(text), None if self.lies else self.known.get(text), 1000 * (seed + row)
            while scenes is None:
                some = sample_scenes(range(start, start + 64))
                right = holds([claims] * 64, some) != self.lies
                if claims.mentions:  # nothing beside what is mentioned
                    right &= (some.count == claims.objects) | (guidance == 1.0)
                rows = right.nonzero()[:, 0]
                scenes, start = (some[rows[:1]] if len(rows) else None), start + 64
            found.append(paint(scenes, 48))
        return type("Output", (), {"pixels": torch.cat(found)})


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
