"""The recipes of the tableau world: their parts fit each other and the package, and a small run is a model."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import sfumato as sf
from sfumato import assets
from sfumato.cli.train import RECIPES as LISTED
from sfumato.codecs import AutoencoderKLConfig, load_codec, save_codec
from sfumato.data.tableau import AltText, Tableau
from sfumato.measure import load_judge
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
    # two bytes a number, beside 2.6 MB of a codec, of 12 in all
    assert 2 * (count(recipe.net) + count(judge.net)) < 9_400_000


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
    small = "--net.net.widths 16,16 --net.net.groups 4 --net.net.heads 2,2 --net.net.context 16 --net.text.layers 1"
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


def test_without_a_codec_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the latents would be kept
    recipe = override(RECIPES["tableau"](), ["--data.data.data.coder", str(tmp_path / "none")])
    with pytest.raises(sf.InputError, match="give a folder that `save_codec` wrote"):
        train(recipe, quiet=True)


def test_a_run_and_its_judge_become_a_model_of_the_package(run, tmp_path, monkeypatch, capsys):
    small = "--net.text.layers 1 --net.widths 8,8,8 --net.layers 1 --net.heads 2 --train.steps 1 --train.batch_size 2"
    judge = override(RECIPES["tableau-clip"](), [*small.split(), "--data.data.data.size", "8"])
    folder = Run.create(tmp_path, "judge", sf.to_config(judge))
    train(judge, folder, quiet=True)
    figures = tmp_path / "figures.json"
    figures.write_text(json.dumps({"model": [{"name": "one_object", "settings": "", "value": 0.25, "n": 8}]}))
    spec = importlib.util.spec_from_file_location("ship", Path(__file__).parents[2] / "tools" / "ship.py")
    ship = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ship)
    (tmp_path / "assets").mkdir()
    monkeypatch.setattr(assets, "HOME", tmp_path / "assets")
    monkeypatch.chdir(tmp_path / "assets")
    words = ["ship", str(run.path), str(folder.path), "--figures", str(figures), "--name", "small"]
    monkeypatch.setattr(sys, "argv", words)
    ship.main()
    assert "bytes in 7 files" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    pipe, own = sf.load("small"), sf.load(run.path)
    assert {p.dtype for p in pipe.denoiser.parameters()} == {torch.float32}
    for name, value in pipe.denoiser.net.state_dict().items():
        torch.testing.assert_close(value, own.denoiser.net.state_dict()[name], rtol=1e-3, atol=1e-3)
    home = assets.shipped("small")
    assert load_judge(home).words == judge.data.words
    assert load_codec(home, torch.float32).state_dict().keys() == pipe.codec.state_dict().keys()
    assert "| one_object  | 0.25 | 8 |" in (home / "card.md").read_text()
    with pytest.raises(SystemExit, match="with --replace"):
        ship.main()
    (home / "old").write_text("of the model before")
    monkeypatch.setattr(sys, "argv", [*words, "--replace"])
    ship.main()
    assert not (home / "old").exists()
    assert load_judge(home).words == judge.data.words
    monkeypatch.setattr(sys, "argv", [*words[:-1], "other"])
    monkeypatch.setattr(ship, "MOST", 1000)
    with pytest.raises(SystemExit, match="at most 1,000"):
        ship.main()
    assert assets.names() == ["small"]
