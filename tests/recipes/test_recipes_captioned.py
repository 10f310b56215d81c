"""A recipe whose data has captions and latents: its run is a model that takes prompts."""

from dataclasses import dataclass

import pytest
import torch

import sfumato as sf
from sfumato.codecs import Codec
from sfumato.codecs.kl import AutoencoderKLConfig
from sfumato.conditioning import Words
from sfumato.core import Flow, FlowTime, Rectified, register
from sfumato.data import Captions, Worded
from sfumato.data.dataset import InMemory
from sfumato.nets import CaptionedConfig, PixArtConfig, WordEncoderConfig
from sfumato.objectives import Denoising, LogitNormal
from sfumato.recipes import Recipe, train
from sfumato.train import Run, TrainConfig

WORDS = Words(vocabulary=("dark", "light"), length=4)


def tiny_codec():
    torch.manual_seed(0)
    return AutoencoderKLConfig(widths=(8, 8), layers=1, groups=2, middle=False).build().eval().requires_grad_(False)


@register
@dataclass(frozen=True, kw_only=True)
class DarkAndLight(InMemory):
    """Latents of two kinds, with captions."""

    def _load(self):
        noise = sf.Noise(range(16)).normal((16, 4, 4, 4), "x")
        y = torch.arange(16) % 2
        captions = Captions().cond([WORDS.vocabulary[i] for i in y.tolist()])
        return sf.core.Batch(0.1 * noise + (2.0 * y - 1)[:, None, None, None], captions)

    @property
    def codec(self) -> Codec:
        """A codec of random weights."""
        return tiny_codec()


def recipe(**train):
    return Recipe(
        data=Worded(data=DarkAndLight(), words=WORDS),
        net=CaptionedConfig(
            text=WordEncoderConfig(words=WORDS.count, length=4, width=8, layers=1, heads=2),
            net=PixArtConfig(size=4, out_channels=4, width=16, layers=1, heads=2, context=8),
        ),
        schedule=Rectified(),
        prediction=Flow(),
        scaling=FlowTime(),
        objective=Denoising(time=LogitNormal(), drop=0.1),
        train=TrainConfig(**({"steps": 4, "batch_size": 8, "lr": 1e-2, "ema": (100.0,)} | train)),
        modality=sf.pipeline.Pixels(),
        prompts=("dark", "light"),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    chosen = recipe(steps=150, sample_every=150)
    run = Run.create(tmp_path_factory.mktemp("runs"), "tiny", sf.to_config(chosen))
    trainer, _ = train(chosen, run, quiet=True)
    return run, trainer


def test_both_the_network_and_its_reader_are_trained_and_averaged(trained):
    _, trainer = trained
    average = trainer.state.ema.of()
    fresh = recipe().denoiser().net.state_dict()
    for name in ("text.table.weight", "text.blocks.0.qkv.weight", "net.blocks.0.cross.k.weight"):
        assert not average[name].equal(fresh[name])


def test_a_run_is_a_model_that_takes_prompts(trained, tmp_path):
    run = trained[0]
    assert [p.name for p in run.samples.iterdir()] == ["step-00000150.png"]
    pipe = sf.load(run.path)
    out = pipe(["dark", "light"], n=8, seed=3)
    means = out.tensor.flatten(1).mean(1)
    assert out.pixels.shape == (16, 3, 8, 8)
    assert float(means[:8].max()) < 0 < float(means[8:].min())
    guided = pipe("dark", n=2, guidance=2.0, negative="light").tensor.mean()
    assert float(guided) < float(means[:8].mean())
    assert pipe("mauve", n=1).notes == ("not among the words that this model knows: mauve",)
    again = sf.load(pipe.save(tmp_path / "saved"))
    assert again.sha256() == pipe.sha256()
    assert again.conditioner == WORDS
    assert again("dark", n=1, seed=5).tensor.equal(pipe("dark", n=1, seed=5).tensor)
