"""Learned words in whole pipelines: diffusers' pictures from the same file, and settings that know the word."""

import pytest
import tiny_folders
import tiny_text
import torch
from safetensors.torch import save_file

import sfumato as sf
from sfumato import InputError
from sfumato.cli import main
from sfumato.interop.single.writing import write_single
from sfumato.pipeline import read_settings

PROMPT = "a <hat> in the red style of <hat>"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("word")
    theirs = tiny_folders.sd()
    theirs.save_pretrained(folder / "model")
    vectors = 3 * torch.randn(2, tiny_text.WIDTH, generator=torch.Generator().manual_seed(0))
    save_file({"<hat>": vectors}, folder / "learned_embeds.safetensors")
    return folder, theirs, sf.load(folder / "model")


def _theirs(theirs, x):
    told = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt", "latents": x.clone()}
    return theirs(PROMPT, negative_prompt="ugly <hat>", **told).images * 255


def _ours(pipe, theirs, x):
    grid = tiny_folders.times(theirs.scheduler, 4)
    out = pipe(PROMPT, n=1, negative="ugly <hat>", guidance=3.0, grid=grid, solver="ddim", start=x)
    return (out.pixels + 1).clamp(0, 2) * 127.5


def test_the_pictures_of_load_textual_inversion(case):
    folder, theirs, pipe = case
    x = tiny_folders.start((1, 4, 8, 8))
    plain = _ours(pipe, theirs, x)
    assert float((plain - _theirs(theirs, x)).abs().max()) < 0.1
    known = pipe.with_inversion(folder / "learned_embeds.safetensors")
    theirs.load_textual_inversion(folder / "learned_embeds.safetensors")
    expected = _theirs(theirs, x)
    assert float((expected - plain).abs().max()) > 5
    assert float((_ours(known, theirs, x) - expected).abs().max()) < 2
    assert torch.equal(_ours(pipe, theirs, x), plain)
    assert known.denoiser is pipe.denoiser


def test_the_settings_of_a_picture_are_those_of_the_pipeline_with_the_word(case, tmp_path):
    folder, _, pipe = case
    known = pipe.with_inversion(folder / "learned_embeds.safetensors")
    assert known.sha256() != pipe.sha256()
    out = known("a <hat>", n=1, steps=2)
    (file, *_) = out.save(tmp_path)
    settings = read_settings(file)
    assert torch.equal(known.again(settings).pixels, out.pixels)
    with pytest.raises(InputError, match="load the model that made the picture"):
        pipe.again(settings)
    known.save(tmp_path / "saved")
    back = sf.load(tmp_path / "saved")
    assert back.sha256() == known.sha256()
    assert float((back.again(settings).pixels - out.pixels).abs().max()) < 1e-4


def test_the_command_line_takes_it_and_one_file_has_no_place_for_it(case, tmp_path, capsys):
    folder, _, pipe = case
    file = folder / "learned_embeds.safetensors"
    known = pipe.with_inversion(file)
    asked = ["sample", str(folder / "model"), "a <hat>", "-n", "1", "--steps", "2", "--out", str(tmp_path / "out")]
    assert main([*asked, "--inversion", str(file)]) == 0
    (picture,) = (tmp_path / "out").glob("*.png")
    assert torch.equal(known.again(read_settings(picture)).pixels, known("a <hat>", n=1, steps=2).pixels)
    assert pipe.with_inversion(file, "<cap>").sha256() != known.sha256()
    with pytest.warns(UserWarning, match=r"the word '<hat>' of clip.*this layout holds no tokenizer"):
        write_single(known, tmp_path / "one.safetensors")


def test_a_word_has_another_name_where_one_is_given_and_several_follow_each_other(case, tmp_path):
    folder, _, pipe = case
    save_file({"emb_params": torch.ones(1, tiny_text.WIDTH)}, tmp_path / "ones.safetensors")
    known = pipe.with_inversion(folder / "learned_embeds.safetensors", "<cap>").with_inversion(
        tmp_path / "ones.safetensors"
    )
    tower = known.conditioner.towers["clip"]
    assert [len(tower.tokens(word)) for word in ("<cap>", "ones")] == [2, 1]
    with pytest.raises(InputError, match="a word of this text encoder already"):
        known.with_inversion(tmp_path / "ones.safetensors")


def test_a_model_without_text_encoders_is_refused_in_one_line(case):
    folder, _, pipe = case
    alone = sf.Pipeline(denoiser=pipe.denoiser, shape=pipe.shape)
    with pytest.raises(InputError, match="vectors of a CLIP text encoder, and this model has none") as refused:
        alone.with_inversion(folder / "learned_embeds.safetensors")
    assert "\n" not in str(refused.value)
