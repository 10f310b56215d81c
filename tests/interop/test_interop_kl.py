"""The KL autoencoder against diffusers' on the same weights, in every shape that released files have."""

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled
from safetensors.torch import save_file

from sfumato import InputError, Noise
from sfumato.interop.diffusers.folder import read_network
from sfumato.interop.diffusers.kl import LAYOUT
from sfumato.interop.links import read

FILE = "diffusion_pytorch_model"
diffusers = pytest.importorskip("diffusers")

TINY = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "sample_size": 16,
}
VARIANTS = {
    "sd": {},
    "sd3": {
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
    },
    "f2 of three levels": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 1,
        "latent_channels": 3,
    },
    "attention at a level": {
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    },
    "no attention": {"mid_block_add_attention": False},
    "moments of the latents": {"latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [1.1, 0.5, 2.0, 0.9]},
}


def _models(name, **more):
    theirs = scrambled(diffusers.AutoencoderKL(**(TINY | VARIANTS[name] | more)))
    return theirs, ours(LAYOUT, theirs)


def _pixels(seed=0):
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _normalised(config, z):
    """What diffusers' pipelines do with z before the denoiser sees it."""
    if config.latents_mean is not None:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return (z - mean) * config.scaling_factor / std
    return (z - (config.shift_factor or 0.0)) * config.scaling_factor


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_latents_and_pixels_as_diffusers(name):
    theirs, codec = _models(name)
    x = _pixels()
    posterior = theirs.encode(x).latent_dist
    mean = _normalised(theirs.config, posterior.mean)
    latents = codec.encode(x)
    assert latents.shape == (2, codec.channels, 16 // codec.factor, 24 // codec.factor)
    assert distance(latents, mean) < 1e-5
    drawn = Noise([5, 6]).like(mean, "posterior")
    expected = _normalised(theirs.config, posterior.mean + posterior.std * drawn)
    assert distance(codec.encode(x, Noise([5, 6])), expected) < 1e-5
    pixels = theirs.decode(posterior.mean).sample
    assert distance(codec.decode(mean), pixels) < 1e-5


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_half_precision_is_no_worse_than_theirs(name):
    theirs, codec = _models(name)
    x, z = _pixels(), torch.randn(2, codec.channels, 8, 12, generator=torch.Generator().manual_seed(1))
    half, their_half = halved(codec), halved(theirs)
    with_norm = lambda posterior: _normalised(theirs.config, posterior.latent_dist.mean.float())
    exact, other = with_norm(theirs.encode(x)), with_norm(their_half.encode(x.bfloat16()))
    assert distance(half.encode(x), exact) < max(1e-2, 1.5 * distance(other, exact))
    exact, other = theirs.decode(z).sample, their_half.decode(z.bfloat16()).sample.float()
    assert distance(half.decode(codec.normalise(z)).float(), exact) < max(1e-2, 1.5 * distance(other, exact))


@torch.no_grad()
def test_float16_weights_are_computed_in_float32_where_the_file_says_so():
    for upcast, bar in ((True, 1e-5), (False, 1e-2)):
        theirs = scrambled(diffusers.AutoencoderKL(**TINY, force_upcast=upcast)).half()
        codec = ours(LAYOUT, theirs)
        assert codec.config.upcast is upcast
        z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        exact = theirs.float().decode(z / codec.config.scale).sample
        got = codec.decode(z)
        assert got.dtype == (torch.float32 if upcast else torch.float16)
        assert distance(got.float(), exact) < bar
        assert all(p.dtype == torch.float16 for p in codec.parameters())


@pytest.mark.parametrize("name", ["sd", "attention at a level"])
def test_every_weight_shows(name):
    codec = _models(name)[1]
    names = idle(codec, lambda c: c.decode(c.encode(_pixels(), Noise([1, 2]))))
    # a bias of keys shifts all logits of a query alike: softmax does not see it
    assert [n for n in names if not n.endswith("attention.k.bias")] == []


@torch.no_grad()
def test_the_names_of_older_files_are_read(tmp_path):
    theirs, codec = _models("sd")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = theirs.state_dict()
    legacy = {}
    for name, tensor in state.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        legacy[name] = tensor
    assert set(legacy) != set(state)
    tensors, missing, unused = read(LAYOUT.links(codec), LAYOUT.today(legacy))
    assert not missing
    assert not unused
    assert all(torch.equal(tensors[name], value) for name, value in codec.state_dict().items())
    theirs.save_pretrained(tmp_path)
    save_file({name: tensor.contiguous() for name, tensor in legacy.items()}, tmp_path / f"{FILE}.safetensors")
    read_back = read_network(tmp_path)
    assert torch.equal(read_back.decode(torch.ones(1, 4, 4, 4)), codec.decode(torch.ones(1, 4, 4, 4)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"down_block_types": ("DownEncoderBlock2D", "DownBlock2D")}, "DownBlock2D"),
        ({"down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")}, "same levels"),
        ({"up_block_types": ("UpDecoderBlock2D",)}, "1 entries for 2 levels"),
        ({"act_fn": "relu"}, "relu"),
        ({"latents_mean": [0.0]}, "mean needs 4 numbers"),
        ({"norm_num_groups": 5}, "groups=5"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        LAYOUT.config(TINY | change)
