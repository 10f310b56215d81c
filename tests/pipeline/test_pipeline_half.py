"""Half precision: a codec that overflows in it computes in float32, and what overflows anyway is named."""

import pytest
import torch
from pipeline_toys import stirred
from test_pipeline_given import PICTURE, latent

import sfumato as sf
from sfumato.codecs import AutoencoderKLConfig
from sfumato.nets.blocks import wide

LARGE = 1e5  # beyond float16's 65504, and nothing to a normalisation after it


def overflowing(*, upcast, dtype=torch.float32):
    """Return a pipeline whose codec has activations of about `LARGE` in its encoder and its decoder."""
    codec = AutoencoderKLConfig(widths=(8, 8), layers=1, latent=4, groups=2, upcast=upcast)
    made = stirred(codec.build()).eval()
    with torch.no_grad():
        for part in (made.encoder, made.decoder):
            part.conv_in.weight.mul_(LARGE).clamp_(-6e4, 6e4)  # the weights are in range, what they give is not
    return latent(codec=made).to(dtype)


@pytest.mark.parametrize("asked", [{}, {"image": PICTURE, "strength": 0.6}])
def test_a_codec_that_asks_for_it_computes_in_float32(asked, monkeypatch):
    monkeypatch.setattr(wide, "emulated", lambda dtype: False)  # as where half precision is computed in
    call = {"n": 1, "steps": 4, "seed": 3} | asked
    exact = overflowing(upcast=True)(**call)
    half = overflowing(upcast=True, dtype=torch.float16)(**call)
    assert next(half.pipeline.codec.parameters()).dtype == torch.float16
    assert half.pixels.isfinite().all()
    # the network's own rounding, of eleven bits, is all that differs
    assert (half.pixels - exact.pixels).abs().mean() < 0.02 * exact.pixels.abs().mean()
    with pytest.raises(sf.Diverged, match=r"codec\.|left the finite numbers") as caught:
        overflowing(upcast=False, dtype=torch.float16)(**call)
    assert "float16" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_overflows_where_the_processor_has_no_half_precision(monkeypatch):
    monkeypatch.setattr(wide, "emulated", lambda dtype: dtype == torch.float16)
    half = overflowing(upcast=False, dtype=torch.float16)
    got = half(n=1, steps=4, image=PICTURE, strength=0.6).pixels
    exact = overflowing(upcast=False, dtype=torch.float16).to(torch.float32)
    assert (got - exact(n=1, steps=4, image=PICTURE, strength=0.6).pixels).abs().max() < 1e-4
    with torch.no_grad():
        half.codec.decoder.conv_in.weight[0] = torch.nan
    with pytest.raises(sf.Diverged, match=r"codec\.decoder\.conv_in .* in float32: check its weights"):
        half(n=1, steps=4)


def test_bfloat16_has_the_range_and_needs_no_help():
    exact = overflowing(upcast=False)(n=1, steps=4)
    half = overflowing(upcast=False, dtype=torch.bfloat16)(n=1, steps=4)
    assert half.pixels.isfinite().all()
    assert (half.pixels - exact.pixels).abs().mean() < 0.2 * exact.pixels.abs().mean()
