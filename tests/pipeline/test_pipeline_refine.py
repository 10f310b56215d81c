"""Hand-overs, and second passes of several prompts: what they make is what separate calls make."""

import dataclasses

import pytest
import torch
from pipeline_toys import make
from test_pipeline_given import PICTURE, latent

import sfumato as sf
from sfumato.pipeline import enlarged, refined


def test_a_refiner_goes_on_where_the_base_stops():
    base, refiner = latent(), latent()
    with torch.no_grad():
        next(refiner.denoiser.parameters()).mul_(0.5)
    out = refined(base, refiner, n=2, share=0.4, steps=15, seed=3, solver="ddim", grid="uniform")
    grid = sf.grids.uniform(base.denoiser.schedule, 15).tolist()
    asked = {"n": 2, "seed": 3, "solver": "ddim", "grid": grid}
    first = base(span=(1.0, 0.4), **asked)
    second = refiner(span=(0.4, 0.0), start=first.tensor, **asked)
    assert torch.equal(out.tensor, second.tensor)
    assert not torch.allclose(out.tensor, base(**asked).tensor, atol=1e-3)
    # a refiner that is the base itself changes nothing
    torch.testing.assert_close(refined(base, base, share=0.4, **asked).tensor, base(**asked).tensor)
    assert torch.equal(refiner.again(out.settings(), start=first.tensor).tensor, out.tensor)
    with pytest.raises(sf.InputError, match="start: the picture to make again was made from one"):
        refiner.again(out.settings())
    with pytest.raises(sf.InputError, match="start is not the one"):
        refiner.again(out.settings(), start=first.tensor + 1)


def test_the_base_alone_sees_a_picture_and_the_refiner_has_settings_of_its_own():
    base = latent()
    asked = {"n": 1, "steps": 8, "solver": "ddim", "grid": "uniform"}
    out = refined(base, base, share=0.4, image=PICTURE, strength=0.75, **asked)
    torch.testing.assert_close(out.tensor, base(image=PICTURE, strength=0.75, **asked).tensor)
    other = refined(base, base, share=0.4, refining={"solver": "euler"}, **asked)
    assert other.request["solver"]["kind"] == "Euler"


def test_what_a_mask_keeps_is_kept_by_both():
    base, mask = latent(), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    asked = {"n": 2, "steps": 8, "solver": "ddim", "grid": "uniform", "image": PICTURE, "mask": mask}
    out = refined(base, base, share=0.4, **asked)
    assert torch.equal(out.pixels[..., 4:], PICTURE.expand(2, -1, -1, -1)[..., 4:])
    torch.testing.assert_close(out.tensor, base(**asked).tensor)
    assert (out.pixels[..., :4] - PICTURE[..., :4]).abs().max() > 0.1
    other = latent()
    with torch.no_grad():
        next(other.denoiser.parameters()).mul_(0.5)
    last = refined(base, other, share=0.4, **asked)
    assert torch.equal(last.pixels[..., 4:], PICTURE.expand(2, -1, -1, -1)[..., 4:])
    assert not torch.allclose(last.tensor, out.tensor, atol=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.0, 0.01])
def test_a_share_that_leaves_no_step_is_refused(share):
    with pytest.raises(sf.InputError, match=r"share=|holds no step"):
        refined(latent(), latent(), share=share, steps=4, grid="uniform")


def test_models_that_do_not_go_together_are_refused():
    base = latent()
    net = base.denoiser.net
    other = dataclasses.replace(base, denoiser=sf.Preconditioned(net, sf.VPLinear(), sf.V()))
    scaled = dataclasses.replace(base.codec.config, scale=0.13025).build()  # SDXL's latents beside those of 1.5
    for refiner in (other, dataclasses.replace(base, codec=None), dataclasses.replace(base, codec=scaled)):
        with pytest.raises(sf.InputError, match=r"other latents .* or another schedule"):
            refined(base, refiner, n=1)


def test_each_enlarged_picture_keeps_its_own_settings():
    pipe = make()
    asked = {"n": 2, "seed": 5, "steps": 6, "solver": "ddim", "guidance": 3.0, "rescale": 0.5}
    out = pipe(["cat", "dog"], negative=["dog", "7"], **asked)
    large = enlarged(pipe, out, scale=2.0, strength=0.5)
    picture = torch.nn.functional.interpolate(out.pixels, (8, 8), mode="bicubic", align_corners=False).clamp(-1, 1)
    rows = [("cat", "dog"), ("cat", "dog"), ("dog", "7"), ("dog", "7")]
    for i, (prompt, negative) in enumerate(rows):
        one = asked | {"n": 1, "seed": 5 + i, "image": picture[i], "strength": 0.5, "size": (8, 8)}
        assert torch.equal(large[i].tensor, pipe(prompt, negative=negative, **one).tensor)
        assert large[i].request["solver"] == out.request["solver"]
    (first, *_) = enlarged(pipe, pipe(["cat", "dog"], negative="7", **asked), scale=2.0, strength=0.5)
    assert first.request["negative"] == ["7"]


def test_a_second_pass_has_the_times_of_the_first_and_is_shown_what_it_saw():
    pipe = make()
    out = pipe("cat", n=1, grid=[1.0, 0.7, 0.5, 0.2, 0.0])
    assert enlarged(pipe, out, scale=2.0, strength=0.5)[0].request["grid"] == [1.0, 0.7, 0.5, 0.2, 0.0]
    for name in ("depth", "control"):
        shown = dataclasses.replace(out, request=out.request | {name: "hash"})
        with pytest.raises(sf.InputError, match=f"made with {name}: give {name}= to their second pass"):
            enlarged(pipe, shown, scale=2.0)
