"""A pipeline that reads texts, in our own folder: the same pictures, and a hash of all that makes them."""

import pytest
import tiny_text
import torch
from pipeline_toys import stirred

import sfumato as sf
from sfumato.codecs import AutoencoderKLConfig, Sliced
from sfumato.conditioning import ClipText, SD3Text, TextConditioner, Tower, Weighted
from sfumato.nets import LatentUNetConfig, MMDiTConfig


def sd(**changes):
    unet = LatentUNetConfig(
        widths=(32, 64), layers=1, transformers=(1, 0), middle=1, heads=(4, 4), context=tiny_text.WIDTH, groups=8
    )
    codec = AutoencoderKLConfig(widths=(16, 16), layers=1, groups=8).build()
    table = sf.Table.from_betas(torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64))
    parts = {
        "denoiser": sf.Preconditioned(stirred(unet.build()), table, sf.Eps(), sf.Plain(scale=1000.0, shift=-1.0)),
        "codec": stirred(codec).eval(),
        "conditioner": TextConditioner(
            family=ClipText(skip=1),
            towers={"clip": Tower(tiny_text.clip_text(), tiny_text.clip_tokenizer())},
            syntax=Weighted(),
        ),
    }
    return sf.Pipeline(shape=(4, 8, 8), **(parts | changes))


@torch.no_grad()
def test_it_comes_back_with_its_texts_and_its_codec(tmp_path):
    pipe = sd()
    pipe.save(tmp_path / "m")
    again = sf.load(tmp_path / "m")
    told = {"prompt": "a (red:1.3) cat", "negative": "ugly", "n": 1, "steps": 2, "guidance": 4.0}
    assert torch.equal(again(**told).pixels, pipe(**told).pixels)
    assert again.sha256() == pipe.sha256()
    assert again.conditioner.family == ClipText(skip=1)
    assert again.conditioner.syntax == Weighted()
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "sfumato.json").read_bytes() == (tmp_path / "m" / "sfumato.json").read_bytes()


def test_a_family_with_towers_missing_comes_back(tmp_path):
    net = MMDiTConfig(channels=4, out_channels=4, layers=1, heads=1, context=64, pooled=64, positions=8, base=4)
    towers = {
        "clip_g": Tower(tiny_text.clip_text(projection=32), tiny_text.clip_tokenizer(pad="!")),
        "t5": Tower(tiny_text.t5(width=64), tiny_text.t5_tokenizer()),
    }
    pipe = sf.Pipeline(
        denoiser=sf.Preconditioned(stirred(net.build()), sf.Rectified(shift=3.0), sf.Flow(), sf.FlowTime()),
        conditioner=TextConditioner(family=SD3Text(length=8, width=64, pooled=(32, 32)), towers=towers),
        shape=(4, 8, 8),
        codec=AutoencoderKLConfig(widths=(16, 16), layers=1, groups=8).build().eval(),
    )
    pipe.save(tmp_path / "m")
    again = sf.load(tmp_path / "m")
    assert set(again.conditioner.towers) == {"clip_g", "t5"}
    told = {"prompt": "a cat in the hat", "n": 1, "steps": 2}
    assert torch.equal(again(**told).tensor, pipe(**told).tensor)
    assert again.sha256() == pipe.sha256()


@torch.no_grad()
@pytest.mark.parametrize("part", ["net", "codec", "text"])
def test_the_hash_follows_every_part(part):
    pipe = sd()
    first = pipe.sha256()
    assert sd().sha256() == first
    tensor = {
        "net": pipe.denoiser.net.conv_in.bias,
        "codec": pipe.codec.decoder.conv_in.bias,
        "text": next(pipe.conditioner.towers["clip"].model.parameters()),
    }[part]
    tensor.view(-1)[0] += 1.0
    assert pipe.sha256() != first


def test_how_a_codec_is_run_is_not_saved(tmp_path):
    pipe = sd()
    wrapped = sd(codec=Sliced(pipe.codec))
    assert wrapped.sha256() == pipe.sha256()
    wrapped.save(tmp_path / "m")
    assert sf.load(tmp_path / "m").sha256() == pipe.sha256()


def test_a_tower_that_no_family_has_is_refused(tmp_path):
    sd().save(tmp_path / "m")
    file = tmp_path / "m" / "sfumato.json"
    file.write_text(file.read_text().replace('"clip"', '"../../clip"'))
    with pytest.raises(sf.CheckpointError, match="ClipText has no tower"):
        sf.load(tmp_path / "m")
