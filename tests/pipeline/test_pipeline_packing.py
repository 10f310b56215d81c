"""A run's packed network: taken where it pays, the same pictures, and nothing of it left behind."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from sfumato.codecs import AutoencoderKLConfig
from sfumato.conditioning.conditioner import Encoded
from sfumato.control.controlnet import trained_from
from sfumato.control.lora import Adapter, LoRA, attached
from sfumato.core import Eps, InputError, Preconditioned, VPCosine
from sfumato.nets.blocks import kernels
from sfumato.nets.dit import DiTConfig
from sfumato.nets.latent_unet import LatentUNetConfig
from sfumato.pipeline import Pipeline, packing
from sfumato.pipeline.lean import SAVERS
from sfumato.pipeline.steering import ByControlNet

pytestmark = pytest.mark.usefixtures("fused")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(config):
    net = config.build().eval()
    for i, p in enumerate(net.parameters()):
        p.data += 0.1 * drawn(*p.shape, seed=i)
    return net


@pytest.fixture
def packs(monkeypatch):
    """All networks are large enough; return how many layers each run packed."""
    counts = []
    monkeypatch.setattr(packing, "NUMBERS", 1)
    real = packing.packed

    def seen(net):
        made = real(net)
        counts.append(sum(type(m).__name__.startswith("Packed") for m in made.modules()))
        return made

    monkeypatch.setattr(packing, "packed", seen)
    return counts


def pipeline(**more):
    net = built(DiTConfig(channels=3, size=8, width=32, layers=2, heads=2, num_classes=4))
    return Pipeline(denoiser=Preconditioned(net, VPCosine(), Eps()), shape=(3, 8, 8), **more)


CALL = {"prompt": ["1", "2"], "n": 1, "steps": 10, "guidance": 2.0, "solver": "ddim"}


def test_a_long_run_is_packed_and_gives_the_same_pictures(packs):
    pipe = pipeline()
    before = pipe.sha256()
    got = pipe(**CALL).tensor
    assert packs == [10]  # patches, out, and four matrices of each block; no modulation, no embedding
    expected = replace(pipe, memory=("unpacked",))(**CALL).tensor
    assert packs == [10]
    assert float((got - expected).norm() / expected.norm()) < 1e-5
    assert torch.equal(pipe(**CALL).tensor, got)  # to the bit, each time
    assert pipe.sha256() == before
    assert not any(type(m).__name__.startswith("Packed") for m in pipe.denoiser.modules())


def test_nine_evaluations_are_not_packed_and_solvers_count_theirs(packs):
    pipe = pipeline()
    pipe(**CALL | {"steps": 9})
    assert packs == []
    pipe(**CALL | {"steps": 5, "solver": "heun"})  # two each, and one for the last
    assert packs == []
    pipe(**CALL | {"steps": 6, "solver": "heun"})
    assert packs == [10]
    pipe(**CALL | {"steps": 20}, span=(1.0, 0.9))  # two of twenty
    assert packs == [10]


def test_weights_are_those_of_the_moment(packs):
    pipe = pipeline()
    pipe(**CALL)
    for p in pipe.denoiser.net.parameters():
        p.data.mul_(1.1)  # which no version counts
    got = pipe(**CALL).tensor
    assert torch.allclose(got, replace(pipe, memory=("unpacked",))(**CALL).tensor, rtol=1e-3, atol=1e-3)
    pipe.to(torch.bfloat16)
    assert pipe(**CALL).tensor.dtype == torch.float32
    pipe.to(torch.float64)  # for which there is no such layout
    assert packs == [10] * 3
    pipe(**CALL)
    assert packs == [10] * 3


def test_nothing_of_it_is_left_when_pictures_are_decoded(packs, monkeypatch):
    made, alive, real = [], [], packing.packed

    def packed(net):
        fast = real(net)
        made.append(weakref.ref(fast))
        return fast

    monkeypatch.setattr(packing, "packed", packed)
    pipe = pipeline()
    codec = type(pipe.coded)
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda self, z: (gc.collect(), alive.append(made[-1]()), decode(self, z))[2])
    pipe(**CALL)
    assert alive == [None]


def test_a_network_that_somebody_listens_to_runs_itself(packs):
    pipe, calls = pipeline(), []
    handle = pipe.denoiser.net.blocks[0].attention.qkv.register_forward_hook(lambda *_: calls.append(1))
    pipe(**CALL)
    assert len(calls) == 10
    handle.remove()
    net = pipe.denoiser.net
    net.blocks[1].mlp.forward = lambda x, plain=net.blocks[1].mlp.forward: (calls.append(2), plain(x))[1]
    pipe(**CALL)
    assert calls.count(2) == 10
    del net.blocks[1].mlp.forward
    with torch.autocast("cpu", torch.bfloat16):
        pipe(**CALL)
    assert packs == []
    pipe(**CALL)
    assert packs == [10]


def test_live_adapters_stay_live(packs):
    pipe = pipeline()
    adapter = Adapter(down=drawn(2, 32), up=drawn(96, 2, seed=1), scale=0.3)
    lora = LoRA({"blocks.0.attention.qkv": (adapter,)})
    live = replace(pipe, denoiser=Preconditioned(attached(pipe.denoiser.net, [(lora, 1.0)]), VPCosine(), Eps()))
    got = live(**CALL).tensor
    assert packs == [9]
    assert torch.allclose(got, replace(live, memory=("unpacked",))(**CALL).tensor, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(got, pipe(**CALL).tensor, atol=1e-2)


class Words:
    """Any prompt is the same text."""

    def __call__(self, prompts, frame=None, *, negative=False):
        return Encoded({"context": drawn(1, 3, 12).expand(len(prompts), -1, -1)})

    def described(self, prompt):
        return prompt


def test_what_steers_and_the_other_savers_go_with_it(packs):
    config = LatentUNetConfig(widths=(8, 16), transformers=(1, 0), heads=(2, 2), context=12, groups=4)
    net, codec = built(config), AutoencoderKLConfig(widths=(4, 4, 4, 4), layers=1, latent=4, groups=2).build().eval()
    control = trained_from(net).eval()
    for i, p in enumerate(control.parameters()):
        p.data += 0.1 * drawn(*p.shape, seed=i)
    denoiser = Preconditioned(net, VPCosine(), Eps())
    pipe = Pipeline(denoiser=denoiser, shape=(4, 8, 8), conditioner=Words(), codec=codec)
    call = {"prompt": "a", "n": 2, "steps": 10, "solver": "ddim", "guidance": 1.0}
    steering = {"control": [ByControlNet(net=control, hint=drawn(1, 3, 64, 64).sigmoid())]}
    plain = pipe(**call).tensor
    for more, memory in ((steering, ()), ({}, ("slices",))):
        packs.clear()
        got = replace(pipe, memory=memory)(**call, **more).tensor
        assert len(packs) == 1
        assert torch.allclose(got, replace(pipe, memory=(*memory, "unpacked"))(**call, **more).tensor, atol=1e-3)
        assert len(packs) == 1
        assert torch.allclose(got, plain, atol=1e-3) == (more == {})

    class Own:
        sha256 = "0"

        def around(self, denoiser, place):
            assert denoiser is pipe.denoiser  # the plain network, whatever is done with it
            return denoiser

    pipe(**call, control=[Own()])
    assert len(packs) == 1


def test_small_networks_and_small_machines(packs, monkeypatch):
    pipe = pipeline()
    monkeypatch.setattr(packing, "total_memory", lambda: 0)
    pipe(**CALL)
    assert packs == []
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "fuses_linear", kernels._onednn)
    layers = kernels.packable(pipe.denoiser.net)
    assert len(layers) == 10
    assert sum(layer.weight.numel() for layer in layers) < packing.NUMBERS
    assert packing.quick(pipe.denoiser, None, ()) is pipe.denoiser
    assert packing.total_memory() > 1 << 28


def test_compiled_runs_and_the_name_of_the_saver(packs):
    pipe = pipeline()
    with torch.no_grad():
        assert packing.quick(pipe.denoiser, 10, ()) is not pipe.denoiser
    assert packing.quick(pipe.denoiser, 10, ()) is pipe.denoiser  # where autograd records
    assert "unpacked" in SAVERS
    with pytest.raises(InputError, match="unknown memory saver 'unpackt'; did you mean 'unpacked'"):
        pipeline(memory=("unpackt",))
