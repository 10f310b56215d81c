"""Starting from a picture, keeping a part of it, running a part of the times, in less memory: by identities."""

import dataclasses

import numpy as np
import pytest
import torch
from pipeline_toys import make, stirred

import sfumato as sf
from sfumato.codecs import AutoencoderKLConfig
from sfumato.nets import UNetConfig
from sfumato.pipeline.given import pixels_of, spanned
from sfumato.pipeline.lean import on


def latent(**changes):
    """A pipeline with a codec: latents [4, 4, 4] of pictures of 8 x 8."""
    net = UNetConfig(
        in_channels=4, out_channels=4, channels=8, multipliers=(1,), layers=1, attention=(), head_width=None, groups=2
    )
    codec = AutoencoderKLConfig(widths=(8, 8), layers=1, latent=4, groups=2)
    denoiser = sf.Preconditioned(stirred(net.build()), sf.VPCosine(), sf.V())
    parts = {"shape": (4, 4, 4), "codec": stirred(codec.build()).eval()}
    return sf.Pipeline(denoiser=denoiser, **(parts | changes))


PICTURE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_strength_of_one_starts_at_the_pictures_noise_and_less_runs_fewer_steps():
    pipe, seen = latent(), []
    out = pipe(n=1, steps=10, image=PICTURE, strength=0.3, callback=lambda k, x: seen.append(k.t))
    assert len(seen) == 3
    assert out.request["strength"] == 0.3
    times = sf.pipeline.names.GRIDS["logistic"](pipe.denoiser.schedule, 10)
    assert seen == times[7:10].tolist()
    # the start is alpha z + sigma eps, with the noise that a run without a picture starts from
    alpha, sigma = pipe.denoiser.schedule(float(times[7]))
    with torch.no_grad():
        start = alpha * pipe.codec.encode(PICTURE) + sigma * sf.Noise([0]).normal((1, 4, 4, 4), "start")
        expected = sf.sample(pipe.denoiser, solver=pipe.defaults.solver, grid=times[7:], seeds=[0], x=start)
    torch.testing.assert_close(out.tensor, expected)


@pytest.mark.parametrize(("strength", "steps"), [(0.0, 10), (1.5, 10), (0.1, 5)])
def test_a_strength_that_leaves_no_step_is_refused(strength, steps):
    with pytest.raises(sf.InputError, match="strength"):
        latent()(n=1, steps=steps, image=PICTURE, strength=strength)


def test_an_empty_mask_is_the_picture_and_a_full_one_a_run_without_one():
    pipe = latent()
    none, whole = torch.full((1, 1, 8, 8), -1.0), torch.ones(1, 1, 8, 8)
    kept = pipe(n=2, image=PICTURE, mask=none)
    assert torch.equal(kept.pixels, PICTURE.expand(2, -1, -1, -1))
    grid = sf.grids.uniform(pipe.denoiser.schedule, 6)[1:]  # begins where alpha is far from 0
    assert torch.equal(pipe(n=2, image=PICTURE, mask=whole, grid=grid).tensor, pipe(n=2, grid=grid).tensor)


def test_where_a_mask_keeps_the_state_is_the_noised_picture_at_every_step():
    pipe = latent()
    hole = torch.full((1, 1, 8, 8), -1.0)
    hole[..., :4] = 1.0
    with torch.no_grad():
        z = pipe.codec.encode(PICTURE)
    eps = sf.Noise([0]).normal((1, 4, 4, 4), "start")

    def check(k, x):
        expected = k.alpha_s * z + k.sigma_s * eps
        torch.testing.assert_close(x[..., 2:], expected[..., 2:], rtol=1e-4, atol=1e-4)

    pipe(n=1, image=PICTURE, mask=hole, solver="ddim", steps=6, callback=check)


def test_two_spans_are_one_run():
    pipe = latent()
    grid = sf.grids.uniform(pipe.denoiser.schedule, 8).tolist()
    whole = pipe(n=2, solver="ddim", grid=grid)
    first = pipe(n=2, solver="ddim", grid=grid, span=(1.0, 0.4))
    assert torch.equal(first.pixels, first.tensor)  # still noisy: nothing to decode
    second = pipe(n=2, solver="ddim", grid=grid, span=(0.4, 0.0), start=first.tensor)
    torch.testing.assert_close(second.pixels, whole.pixels)
    assert spanned(torch.tensor(grid), (1.0, 0.4)).tolist()[-1] == spanned(torch.tensor(grid), (0.4, 0.0)).tolist()[0]
    with pytest.raises(sf.InputError, match="holds no step"):
        pipe(n=1, grid=grid, span=(0.3, 0.3))


def test_each_picture_may_have_a_seed_of_its_own():
    pipe = make()
    some = pipe("cat", n=3, seed=[7, 3, 7])
    assert torch.equal(some.tensor[0], some.tensor[2])
    torch.testing.assert_close(some.tensor[1], pipe("cat", n=1, seed=3).tensor[0])
    again = pipe.again(some.settings(1))
    assert torch.equal(again.tensor, some.tensor)
    with pytest.raises(sf.InputError, match="2 seeds for 3 pictures"):
        pipe("cat", n=3, seed=[1, 2])


@pytest.mark.parametrize("seed", [np.arange(5, 8), [np.int64(5), 6, np.uint8(7)], np.int32(5), torch.tensor([5, 6, 7])])
def test_seeds_of_an_array_are_seeds(seed, tmp_path):
    pipe = make()
    out, plain = pipe("cat", n=3, seed=seed), pipe("cat", n=3, seed=5)
    assert torch.equal(out.tensor, plain.tensor)
    assert out.seeds == (5, 6, 7)
    assert all(type(one) is int for one in out.seeds)
    settings = sf.pipeline.read_settings(out.save(tmp_path)[1])  # and so they can be written and asked for again
    assert settings.seed == 6
    assert torch.equal(pipe.again(settings).tensor, plain.tensor)


@pytest.mark.parametrize("seed", [np.float32(5), np.array([5.0, 6.0, 7.0]), [np.int64(-1), 6, 7], True, np.bool_(True)])
def test_seeds_that_are_none_are_refused(seed):
    with pytest.raises(sf.InputError, match=r"seed=.* must be a whole number of at least 0"):
        make()("cat", n=3, seed=seed)


def test_a_picture_made_from_a_picture_is_made_again_with_the_same_one_alone():
    pipe = latent()
    out = pipe(n=1, image=PICTURE, strength=0.5)
    assert torch.equal(pipe.again(out.settings(), image=PICTURE).tensor, out.tensor)
    with pytest.raises(sf.InputError, match="give the same"):
        pipe.again(out.settings())
    with pytest.raises(sf.InputError, match="not the one"):
        pipe.again(out.settings(), image=-PICTURE)


@pytest.mark.parametrize("savers", [("slices",), ("strips",), ("strips", "slices"), ("tiles",)])
def test_memory_savers_make_the_same_pictures(savers):
    plain = latent()(n=3, steps=4)
    lean = latent(memory=savers)(n=3, steps=4)
    torch.testing.assert_close(lean.pixels, plain.pixels, rtol=1e-4, atol=1e-5)


def test_offloaded_parts_are_on_the_device_only_while_they_run():
    moves = []

    class Part(torch.nn.Linear):
        def to(self, *args, **kwargs):
            moves.append(args[0])
            return self

    part = Part(1, 1)
    with on(torch.device("meta"), part, None):
        assert moves == [torch.device("meta")]
    assert moves == [torch.device("meta"), "cpu"]
    with on(None, part):
        pass
    assert len(moves) == 2
    lean = latent(memory=("offload",), device=torch.device("cpu"))
    assert torch.equal(lean(n=2, steps=3).pixels, latent()(n=2, steps=3).pixels)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"memory": ("tile",)}, "did you mean 'tiles'"),
        ({"memory": ("tiles", "strips")}, "choose one"),
        ({"memory": ("offload",)}, "go together"),
        ({"device": torch.device("cpu")}, "go together"),
        ({"shape": (3, 4, 4)}, "the codec has 4 channels"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, says):
    with pytest.raises(sf.InputError, match=says):
        latent(**changes)


def test_the_first_module_that_leaves_the_finite_numbers_is_named():
    pipe = latent()
    with torch.no_grad():
        pipe.denoiser.net.middle[0].res.conv2.bias[0] = torch.inf
    with pytest.raises(sf.Diverged, match=r"denoiser\.middle\.0\.res\.conv2 gave values that are not finite"):
        pipe(n=1, steps=2)
    pipe = latent()
    with torch.no_grad():
        next(p for n, p in pipe.codec.named_parameters() if n.startswith("decoder")).fill_(torch.nan)
    with pytest.raises(sf.Diverged, match=r"codec\.decoder"):
        pipe(n=1, steps=2)


def test_pictures_as_tensors_must_fit_and_as_pictures_are_resized():
    from PIL import Image

    assert pixels_of(Image.new("RGB", (4, 6), (255, 0, 0)), (8, 8), 3)[0, :, 3, 3].tolist() == [1.0, -1.0, -1.0]
    for bad in (torch.zeros(3, 4, 4), torch.zeros(2, 3, 8, 8), torch.zeros(1, 1, 8, 8)):
        with pytest.raises(sf.InputError, match="must be"):
            pixels_of(bad, (8, 8), 3)
    for bad in (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((3, 8, 8), torch.nan)):
        with pytest.raises(sf.InputError, match="finite numbers from -1 to 1"):
            pixels_of(bad, (8, 8), 3)
    with pytest.raises(sf.InputError, match="PIL image, a file or a tensor"):
        pixels_of(3, (8, 8), 3)
    with pytest.raises(sf.InputError, match="nowhere"):
        pixels_of("nowhere.png", (8, 8), 3)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"mask": PICTURE[:, :1]}, "mask needs a picture"),
        ({"strength": 0.5}, "strength needs a picture"),
        ({"size": (7, 8)}, "height=7 must be a multiple of 2"),
        ({"image_guidance": 2.0, "guidance": 1.0}, "does nothing without guidance"),
        ({"negative": "x"}, "does nothing without guidance"),
    ],
)
def test_what_a_call_cannot_do_is_refused(asked, says):
    with pytest.raises(sf.InputError, match=says):
        latent()(n=1, **asked)


def test_a_size_is_that_of_the_pictures():
    out = latent()(n=1, steps=2, size=(12, 8))
    assert out.pixels.shape == (1, 3, 12, 8)
    assert dataclasses.replace(latent(), shape=(4, 6, 4))(n=1, steps=2).pixels.shape == (1, 3, 12, 8)


def test_a_grey_model_starts_from_a_grey_picture():
    from PIL import Image

    pipe = make()
    out = pipe("cat", n=1, steps=4, image=Image.new("RGB", (8, 8), (255, 255, 255)), strength=0.5)
    same = pipe("cat", n=1, steps=4, image=torch.ones(1, 4, 4), strength=0.5)
    assert torch.equal(out.tensor, same.tensor)
    with pytest.raises(sf.InputError, match=r"must be \[1, 1, 4, 4\]"):
        pipe("cat", n=1, image=torch.ones(3, 4, 4), strength=0.5)
