"""Starting from a picture, keeping a part of it, running a part of the times, in less memory: by identities."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_toys import make, make_cloud, stirred

import sfumato as sf
from sfumato.codecs import AutoencoderKLConfig
from sfumato.nets import UNetConfig
from sfumato.pipeline import Pixels
from sfumato.pipeline.enlarge import enlarged
from sfumato.pipeline.given import as_it_is, hole_of, pixels_of, spanned
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
    none, whole = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    kept = pipe(n=2, image=PICTURE, mask=none)
    assert torch.equal(kept.pixels, PICTURE.expand(2, -1, -1, -1))
    grid = sf.grids.uniform(pipe.denoiser.schedule, 6)[1:]  # begins where alpha is far from 0
    assert torch.equal(pipe(n=2, image=PICTURE, mask=whole, grid=grid).tensor, pipe(n=2, grid=grid).tensor)


def test_where_a_mask_keeps_the_state_is_the_noised_picture_at_every_step():
    pipe = latent()
    hole = torch.zeros(1, 1, 8, 8)
    hole[..., :4] = 1.0
    with torch.no_grad():
        z = pipe.codec.encode(PICTURE)
    eps = sf.Noise([0]).normal((1, 4, 4, 4), "start")

    def check(k, x):
        expected = k.alpha_s * z + k.sigma_s * eps
        torch.testing.assert_close(x[..., 2:], expected[..., 2:], rtol=1e-4, atol=1e-4)

    pipe(n=1, image=PICTURE, mask=hole, solver="ddim", steps=6, callback=check)


def test_a_mask_as_a_picture_as_a_file_and_as_a_tensor_is_one_mask(tmp_path):
    pipe, hole = latent(), torch.zeros(1, 1, 8, 8)
    hole[..., 2:5, 3:] = 1.0
    image = Image.fromarray((hole[0, 0] * 255).byte().numpy())
    image.save(tmp_path / "hole.png")
    made = pipe(n=2, steps=3, image=PICTURE, mask=hole)
    assert torch.equal(made.pixels[..., :3], PICTURE[..., :3].expand(2, -1, -1, -1))
    assert not torch.equal(made.pixels[..., 2:5, 3:], PICTURE[..., 2:5, 3:].expand(2, -1, -1, -1))
    for form in (hole[0], hole.half(), image, image.convert("RGB"), tmp_path / "hole.png"):
        other = pipe(n=2, steps=3, image=PICTURE, mask=form)
        assert torch.equal(other.tensor, made.tensor)
        assert other.request["mask"] == made.request["mask"]
        assert torch.equal(pipe.again(made.settings(), image=PICTURE, mask=form).tensor, made.tensor)
    with pytest.raises(sf.InputError, match="mask is not the one"):
        pipe.again(made.settings(), image=PICTURE, mask=1 - hole)


def test_each_sample_may_have_a_mask_of_its_own():
    pipe, holes = latent(), torch.zeros(2, 1, 8, 8)
    holes[0, ..., :4], holes[1, ..., 4:] = 1.0, 1.0
    both = pipe(n=2, seed=5, steps=3, image=PICTURE, mask=holes)
    for row in range(2):
        alone = pipe(n=1, seed=5 + row, steps=3, image=PICTURE, mask=holes[row])
        torch.testing.assert_close(both.pixels[row : row + 1], alone.pixels)
    with pytest.raises(sf.InputError, match=r"a mask as a tensor must be \[1 or 3, 1, 8, 8\], got \[2, 1, 8, 8\]"):
        pipe(n=3, image=PICTURE, mask=holes)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"mask": torch.eye(8)[None, None]}, None),
        ({"mask": -torch.ones(1, 1, 8, 8)}, "a mask as a tensor must hold finite numbers from 0 to 1, got -1 to -1"),
        ({"mask": torch.full((1, 1, 8, 8), 255.0)}, "from 0 to 1, got 255 to 255"),
        ({"mask": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}, r"from 0 to 1, got torch\.uint8 values"),
        ({"mask": torch.ones(1, 3, 8, 8)}, r"a mask as a tensor must be \[1, 1, 8, 8\], got \[1, 3, 8, 8\]"),
        (
            {"image": torch.full((1, 3, 8, 8), 5.0)},
            "a picture as a tensor must hold finite numbers from -1 to 1, got 5",
        ),
        ({"image": PICTURE * 1.1 / PICTURE.abs().max()}, "from -1 to 1, got .* scale or clamp it"),
        ({"image": PICTURE * 1.001 / PICTURE.abs().max()}, None),  # a rounding of half precision
    ],
)
def test_tensors_outside_of_their_range_are_refused(asked, says):
    pipe = latent()
    if says is None:
        assert pipe(n=1, steps=2, **({"image": PICTURE} | asked)).pixels.isfinite().all()
        return
    with pytest.raises(sf.InputError, match=says) as caught:
        pipe(n=1, steps=2, **({"image": PICTURE} | asked))
    assert "\n" not in str(caught.value)


def stored(kind, path):
    """Write a picture of a kind, and return its file's path."""
    draws = np.random.default_rng(0)
    colours, grey = (draws.integers(0, 256, (8, 8, c), dtype=np.uint8) for c in (3, 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    image, name, options = {
        "I;16": (Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), "png", {}),
        "RGBA": (Image.fromarray(np.dstack([colours, grey])), "png", {}),
        "P": (Image.fromarray(colours).quantize(16), "png", {"transparency": 3}),
        "L": (Image.fromarray(grey[..., 0]), "png", {}),
        "CMYK": (Image.fromarray(colours).convert("CMYK"), "jpg", {}),
        "RGB": (Image.fromarray(colours), "jpg", {"exif": exif, "quality": 100}),
    }[kind]
    image.save(path / f"picture.{name}", **options)
    return path / f"picture.{name}"


@pytest.mark.parametrize("kind", ["I;16", "RGBA", "P", "L", "CMYK", "RGB"])
def test_a_file_and_its_open_picture_are_the_same_picture_and_the_same_mask(kind, tmp_path):
    file = stored(kind, tmp_path)
    with Image.open(file) as image:
        assert image.mode == kind
        for channels in (3, 1):
            assert torch.equal(pixels_of(image, (8, 8), channels), pixels_of(file, (8, 8), channels))
        assert torch.equal(hole_of(image, (8, 8), 1), hole_of(file, (8, 8), 1))
        assert torch.equal(as_it_is(image), as_it_is(file))
        if kind == "I;16":  # the high bytes, not what saturates at 255
            high = torch.arange(64).reshape(8, 8) * 1000 // 256
            torch.testing.assert_close(hole_of(image, (8, 8), 1)[0, 0], high / 255)
        pipe = latent()
        shown = pipe(n=1, steps=2, image=image, mask=image, strength=0.5)
        assert torch.equal(pipe.again(shown.settings(), image=file, mask=str(file)).tensor, shown.tensor)


def test_a_picture_on_its_side_has_the_size_that_it_stands_in(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "side.jpg", exif=exif)
    with Image.open(tmp_path / "side.jpg") as image:
        assert as_it_is(image).shape == as_it_is(tmp_path / "side.jpg").shape == (1, 3, 6, 4)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 5.0), (-1.0, 1.0)])
def test_pictures_come_in_the_range_of_the_models_pixels(low, high):
    pipe = make(modality=Pixels(low=low, high=high))
    levels = torch.arange(16).reshape(4, 4) * 17
    image, hole = Image.fromarray(levels.byte().numpy()), torch.zeros(1, 1, 4, 4)
    hole[..., 2:] = 1.0
    out = pipe("cat", n=1, image=image, mask=hole)
    for kept, expected in zip(np.asarray(out.images[0])[:, :2], levels[:, :2].tolist(), strict=True):
        assert kept.tolist() == expected
    values = low + (high - low) * levels[None, None] / 255
    assert torch.allclose(out.pixels[..., :2], values[..., :2])
    same = pipe("cat", n=1, image=values, mask=hole)  # as a tensor a picture is in that range too
    torch.testing.assert_close(same.tensor, out.tensor, rtol=1e-4, atol=1e-4)
    with pytest.raises(sf.InputError, match=f"finite numbers from {low:g} to {high:g}"):
        pipe("cat", n=1, image=values + (high - low))
    (large,) = enlarged(pipe, out, scale=2.0, strength=0.5, steps=4)  # which may leave it by no overshoot
    assert large.pixels.shape == (1, 1, 8, 8)


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


def test_a_picture_is_refused_where_a_model_can_take_none(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "picture.png")
    for picture in (image, tmp_path / "picture.png", torch.zeros(1, 3, 8, 8)):
        with pytest.raises(sf.InputError, match=r"image is for models of pictures, .* are Points: leave it out"):
            make_cloud()(n=2, image=picture)
    pipe = latent(codec=None)
    for picture in (image, tmp_path / "picture.png"):
        with pytest.raises(sf.InputError, match=r"this model has 4: give .* a tensor \[1, 4, 4, 4\] from -1 to 1"):
            pipe(n=1, image=picture)
    kept = pipe(n=1, steps=2, image=torch.zeros(4, 4, 4), mask=torch.zeros(1, 1, 4, 4))
    assert torch.equal(kept.pixels, torch.zeros(1, 4, 4, 4))


def test_a_grey_model_starts_from_a_grey_picture():
    pipe = make()
    out = pipe("cat", n=1, steps=4, image=Image.new("RGB", (8, 8), (255, 255, 255)), strength=0.5)
    same = pipe("cat", n=1, steps=4, image=torch.ones(1, 4, 4), strength=0.5)
    assert torch.equal(out.tensor, same.tensor)
    with pytest.raises(sf.InputError, match=r"must be \[1, 1, 4, 4\]"):
        pipe("cat", n=1, image=torch.ones(3, 4, 4), strength=0.5)
