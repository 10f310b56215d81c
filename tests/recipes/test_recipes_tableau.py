"""The recipes of the tableau world: their parts fit each other and the package, and a small run is a model."""

import pytest
import torch

import sfumato as sf
from sfumato.cli.train import RECIPES as LISTED
from sfumato.codecs import AutoencoderKLConfig, save_codec
from sfumato.data.tableau import AltText, Tableau
from sfumato.pipeline.folder import empty
from sfumato.recipes import RECIPES, override, train
from sfumato.recipes.tableau import PROMPTS
from sfumato.recipes.tableau_clip import tableau_words
from sfumato.train import Run


def count(config):
    return sum(p.numel() for p in empty(config, torch.float32).parameters())


def test_the_parts_fit_together_and_into_the_package():
    recipe, judge = RECIPES["tableau"](), RECIPES["tableau-clip"]()
    assert set(LISTED) == set(RECIPES)
    for words, text in ((recipe.data.words, recipe.net.text), (judge.data.words, judge.net.text)):
        assert (words.count, words.length) == (text.words, text.length)
    # two bytes a number, beside 2.6 MB of a codec
    assert 2 * (count(recipe.net) + count(judge.net)) < 9_000_000


def test_no_caption_is_cut_and_no_word_unknown():
    words, data = tableau_words(), Tableau(size=2000)
    plain = [c.text for c in data.captions(range(2000))]
    assert max(len(words.spell(text).ids) for text in plain) <= words.length
    clean = Tableau(size=300, styles=tuple(s for s in data.styles if not isinstance(s, AltText)), weights=(1.0,) * 5)
    assert all(words.spell(c.text).unknown == () for c in clean.captions(range(300)))
    assert words(PROMPTS).notes == ()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("tableau")
    torch.manual_seed(0)
    coder = save_codec(AutoencoderKLConfig(widths=(8,), layers=1, patch=4, groups=0, middle=False).build(), home / "kl")
    small = "--net.net.width 24 --net.net.layers 1 --net.net.heads 2 --net.net.context 16 --net.text.layers 1"
    small += f" --net.text.width 16 --net.text.heads 2 --data.data.data.coder {coder} --train.steps 2"
    small += f" --data.data.data.path {home / 'latents'} --data.data.data.data.size 24 --train.batch_size 4"
    recipe = override(RECIPES["tableau"](), small.split())
    folder = Run.create(home, "tableau", sf.to_config(recipe))
    train(recipe, folder, quiet=True)
    return folder


def test_a_small_run_is_a_model_that_reads_prompts(run, tmp_path):
    pipe = sf.load(run.path)
    out = pipe(
        ["two green stars left of a large red ring", "一个紫色箭头"], n=1, steps=2, guidance=2.0, negative="blue"
    )
    assert out.pixels.shape == (2, 3, 64, 64)
    assert out.notes == ()
    assert [p.name for p in run.samples.iterdir()] == ["step-00000002.png"]
    again = sf.load(pipe.save(tmp_path / "saved"))
    assert again.sha256() == pipe.sha256()
    assert again("a red heart", n=1, steps=2).tensor.equal(pipe("a red heart", n=1, steps=2).tensor)


def test_without_a_codec_the_remedy_is_named(tmp_path):
    recipe = override(RECIPES["tableau"](), ["--data.data.data.coder", str(tmp_path / "none")])
    with pytest.raises(sf.InputError, match="give a folder that `save_codec` wrote"):
        train(recipe, quiet=True)
