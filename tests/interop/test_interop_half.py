"""Checkpoints in half precision on a processor without it: every part computes in float32, weights stay as stored."""

import copy
from dataclasses import replace

import diffusers
import pytest
import tiny_folders
import torch
from interop_parity import ours, scrambled
from test_interop_control_pictures import _picture
from test_interop_steered_batches import ASKED, case, steering  # noqa: F401 (a fixture)

import sfumato as sf
from sfumato.interop.diffusers.t2i_adapter import LAYOUT
from sfumato.nets.blocks import wide
from sfumato.pipeline import packing
from sfumato.pipeline.steering import ByAdapter

HALVES = (torch.bfloat16, torch.float16)


def distance(got, expected):
    return float((got - expected).abs().max())


@pytest.fixture
def emulates(monkeypatch):
    """Have the processor be without half precision; return what was widened."""
    names, real = [], wide.widened

    def seen(net):
        names.append(type(net).__name__)
        return real(net)

    monkeypatch.setattr(wide, "emulated", lambda dtype: dtype in HALVES)
    monkeypatch.setattr(wide, "widened", seen)
    return names


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["sd", "xl", "sd3"])
def test_it_paints_what_its_weights_paint_in_float32(kind, dtype, emulates, tmp_path):
    getattr(tiny_folders, kind)().save_pretrained(tmp_path)
    half = sf.load(tmp_path, dtype=dtype)
    got = half("a red cat", n=1, size=(16, 16), **ASKED)
    towers = {"sd": 1, "xl": 2, "sd3": 3}[kind]
    assert len(emulates) == 2 + 2 * towers  # network, codec, and each tower for the prompt and for what to avoid
    assert {p.dtype for p in half.denoiser.parameters()} == {dtype}
    emulates.clear()
    exact = sf.load(tmp_path, dtype=dtype).to(torch.float32)("a red cat", n=1, size=(16, 16), **ASKED)
    assert emulates == []
    assert distance(got.pixels, exact.pixels) < 1e-4
    again = half.again(got.settings())
    assert distance(again.pixels, got.pixels) == 0.0


def test_rounding_is_what_a_processor_with_it_adds(monkeypatch, tmp_path):
    tiny_folders.sd().save_pretrained(tmp_path)
    half = sf.load(tmp_path, dtype=torch.bfloat16)
    exact = sf.load(tmp_path, dtype=torch.bfloat16).to(torch.float32)("a red cat", n=1, **ASKED).pixels
    monkeypatch.setattr(wide, "emulated", lambda dtype: False)
    assert distance(half("a red cat", n=1, **ASKED).pixels, exact) > 1e-3


@pytest.mark.parametrize("kind", ["net", "image", "adapter"])
def test_what_steers_is_widened_too(kind, case, emulates):  # noqa: F811
    pipe = case[0]
    if kind == "adapter":
        made = diffusers.T2IAdapter(channels=[32, 64], num_res_blocks=1, downscale_factor=2)
        net = ours(LAYOUT, scrambled(made, 3))
        control = [ByAdapter(net=net, hint=_picture(1))]
    else:
        control = steering(case, 7)[kind]

    def halved(part, dtype):
        made = copy.deepcopy(part).to(torch.bfloat16)
        return made.to(dtype)

    def told(dtype):
        one = control[0]
        changed = {"net": halved(one.net, dtype)} if kind != "image" else {"adapter": halved(one.adapter, dtype)}
        if kind == "image":
            changed["tower"] = replace(one.tower, model=halved(one.tower.model, dtype))
        return [replace(one, **changed)]

    exact = pipe("a red cat", n=1, control=told(torch.float32), **ASKED)
    assert emulates == []
    got = pipe("a red cat", n=1, control=told(torch.bfloat16), **ASKED)
    assert len(emulates) == {"net": 1, "image": 2, "adapter": 1}[kind]
    assert distance(got.pixels, exact.pixels) < 1e-4
    assert distance(got.pixels, pipe("a red cat", n=1, **ASKED).pixels) > 1e-3


def test_long_runs_and_short_ones(emulates, monkeypatch, tmp_path):
    tiny_folders.sd().save_pretrained(tmp_path)
    half = sf.load(tmp_path, dtype=torch.float16)
    net = half.denoiser.net
    monkeypatch.setattr(packing, "NUMBERS", 1)
    with torch.no_grad():
        short, long = (packing.quick(half.denoiser, n, ()).net for n in (1, 10))
        unpacked = packing.quick(half.denoiser, 10, ("unpacked",)).net
    kinds = [{type(m).__name__ for m in n.modules()} for n in (short, long, unpacked)]
    assert "WideConv2d" in kinds[0]
    assert kinds[2] == kinds[0]
    assert "PackedConv2d" in kinds[1]
    assert emulates == [type(net).__name__] * 3


@pytest.mark.slow  # a minute of the compiler's
@pytest.mark.usefixtures("emulates")
def test_compiled_runs(tmp_path):
    tiny_folders.sd().save_pretrained(tmp_path)
    half = sf.load(tmp_path, dtype=torch.float16)
    pixels = half("a red cat", n=1, **ASKED).pixels
    compiled = half("a red cat", n=1, compile=True, **ASKED).pixels
    assert distance(compiled, pixels) < 1e-4
