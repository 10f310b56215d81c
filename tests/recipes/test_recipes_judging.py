"""A judge's recipe trains, resumes through the command line's ways, and its run is a judge, not a pipeline."""

from dataclasses import dataclass, replace

import pytest
import torch

import sfumato as sf
from sfumato import InputError
from sfumato.conditioning import Words
from sfumato.core import register
from sfumato.data import Captions, Worded
from sfumato.data.dataset import InMemory
from sfumato.data.tableau import EVALUATION, Tableau
from sfumato.data.tableau import WORDS as WORLD
from sfumato.data.tableau.contrasted import Contrasted
from sfumato.measure import Judge
from sfumato.nets import Contrast, ContrastConfig, WordEncoderConfig
from sfumato.recipes import JudgeRecipe, judge_of_run, override, recipe_of, train
from sfumato.recipes.judging import told_apart
from sfumato.train import Run, TrainConfig

NAMES = ("red", "green", "blue", "black")
WORDS = Words(vocabulary=NAMES, length=2)


@register
@dataclass(frozen=True, kw_only=True)
class FourColours(InMemory):
    """Noisy pictures of one colour each, with its name."""

    def _load(self):
        y = torch.arange(64) % 4
        x = 0.3 * sf.Noise(range(64)).normal((64, 3, 8, 8), "x")
        for colour in range(3):
            x[:, colour] += (y == colour).float()[:, None, None]
        return sf.core.Batch(x, Captions().cond([NAMES[i] for i in y.tolist()]))


def recipe():
    return JudgeRecipe(
        data=Worded(data=FourColours(), words=WORDS),
        net=ContrastConfig(
            text=WordEncoderConfig(words=WORDS.count, length=2, width=16, layers=1, heads=2),
            size=8,
            widths=(8, 16),
            layers=1,
            heads=2,
            features=8,
        ),
        train=TrainConfig(steps=60, batch_size=16, lr=3e-3, ema=(100.0,)),
    )


def test_it_learns_which_caption_is_whose(tmp_path):
    run = Run.create(tmp_path, "judge", sf.to_config(recipe()))
    trainer, result = train(recipe(), run, quiet=True)
    assert result.steps == 60
    judge = judge_of_run(run.path)
    batch = FourColours().rows
    chosen = (judge.pictures(batch.x0) @ judge.texts(NAMES).T).argmax(1)
    assert float((chosen == torch.arange(64) % 4).float().mean()) > 0.95
    with trainer.ema_weights() as model:
        torch.testing.assert_close(judge.pictures(batch.x0), model.net.picture(batch.x0))
    assert recipe_of(run) == recipe()
    with pytest.raises(InputError, match="makes no pictures"):
        sf.load(run.path)


def test_fields_can_be_set_and_what_does_not_fit_is_refused():
    assert override(recipe(), ["--train.steps", "5"]).train.steps == 5
    with pytest.raises(InputError, match=r"give --net\.text these"):
        replace(recipe(), data=Worded(data=FourColours(), words=replace(WORDS, length=3)))


def test_what_a_judge_tells_apart_is_measured_on_other_scenes():
    """One that looks at nothing is at chance; one that knows each caption of the evaluation by heart is perfect."""
    data = Contrasted(data=Tableau(size=200, side=16))
    words = Words(vocabulary=WORLD, length=64)
    text = WordEncoderConfig(words=words.count, length=64, width=8, layers=1, heads=2)
    config = ContrastConfig(text=text, size=16, widths=(8, 16), layers=1, heads=2, features=200)
    world = replace(data.data, seed=EVALUATION)
    known = {tuple(row): i for i, row in enumerate(words.tokens([c.text for c in world.captions(range(200))]).tolist())}

    class Knowing(Contrast):
        seen = 0

        def picture(self, x):
            rows = torch.arange(self.seen, self.seen + len(x)) % 200
            self.seen += len(x)
            return torch.eye(200)[rows]

        def words(self, tokens):
            return torch.stack(
                [torch.eye(200)[known[r]] if (r := tuple(t)) in known else torch.zeros(200) for t in tokens.tolist()]
            )

    found = {f.name: f.value for f in told_apart(Judge(net=Knowing(config), words=words), data, 200)}
    assert found["own_before_wrong"] > 0.99
    assert found["text_recall_at_1"] == found["text_recall_at_1_besides"] == 1.0
    torch.manual_seed(0)
    blind = {f.name: f.value for f in told_apart(Judge(net=config.build(), words=words), data, 200)}
    assert blind["text_recall_at_1"] < 0.1
    with pytest.raises(InputError, match="trained on"):
        told_apart(Judge(net=config.build(), words=words), data, 200, seed=0)
