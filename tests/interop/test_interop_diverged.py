"""Values that are not finite: the message names the module that first gave one, wherever in a call it stands."""

import copy
from dataclasses import replace

import pytest
import tiny_folders
import torch
from test_interop_control_pictures import _picture
from test_interop_steered_batches import case, steering  # noqa: F401 (a fixture)

import sfumato as sf
from sfumato.nets.blocks import wide

CALL = {"n": 1, "steps": 3, "guidance": 3.0}
PLACES = {
    "denoiser.down.0.blocks.0.res.conv2": {},
    "codec.decoder.out.conv": {},
    "codec.encoder.conv_in": {"image": "picture"},
    "text encoder clip.encoder.layers.1.mlp.fc1": {},
}


def spoilt(pipe, name):
    """Return a pipeline of its own weights with one NaN in the module of that name."""
    pipe = copy.deepcopy(pipe)
    root, path = name.removeprefix("text encoder ").split(".", 1)
    parts = {"denoiser": pipe.denoiser.net, "codec": pipe.codec, "clip": pipe.conditioner.towers["clip"].model}
    with torch.no_grad():
        parts[root].get_submodule(path).bias.view(-1)[0] = torch.nan
    return pipe


def name_of(pipe, **call):
    with pytest.raises(sf.Diverged) as caught:
        pipe("a red cat", **CALL | call)
    assert "\n" not in str(caught.value)
    return str(caught.value).split(" gave values that are not finite, in ")


@pytest.mark.parametrize(
    ("dtype", "emulated"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
def test_the_first_bad_module_is_named(dtype, emulated, monkeypatch, tmp_path):
    monkeypatch.setattr(wide, "emulated", lambda kind: emulated and kind == torch.bfloat16)
    tiny_folders.sd().save_pretrained(tmp_path)
    pipe = sf.load(tmp_path, dtype=dtype)
    for name, call in PLACES.items():
        given = {"image": _picture(1), "strength": 0.8} if call else {}
        said = "float32" if emulated or dtype == torch.float32 else "bfloat16"
        assert name_of(spoilt(pipe, name), **given) == [name, f"{said}: check its weights and the guidance"]
    for memory in (("strips", "slices"), ("tiles",), ("unpacked",)):
        bad = replace(spoilt(pipe, "codec.decoder.out.conv"), memory=memory)
        assert name_of(bad)[0] == "codec.decoder.out.conv"
    calls = []
    with pytest.raises(sf.Diverged):  # what is run once more is told to nobody
        spoilt(pipe, "denoiser.down.0.blocks.0.res.conv2")("a", callback=lambda k, x: calls.append(1), **CALL)
    assert len(calls) == CALL["steps"]


@pytest.mark.parametrize(("kind", "part"), [("net", "net"), ("image", "adapter")])
def test_what_steers_is_named_by_its_place(kind, part, case):  # noqa: F811
    pipe, *_ = case
    one = steering(case, 7)[kind][0]
    bad = copy.deepcopy(getattr(one, part))
    with torch.no_grad():
        last = [m for m in bad.modules() if isinstance(m, torch.nn.Linear) and m.bias is not None][-1]
        last.bias[0] = torch.nan
    path = next(name for name, module in bad.named_modules() if module is last)
    assert name_of(pipe, control=[replace(one, **{part: bad})])[0] == f"control[0].{path}"


class Endless:
    """A steering of one's own that gives no number."""

    sha256 = "0"

    def around(self, denoiser, place):
        self.denoiser, self.schedule, self.cond = denoiser, denoiser.schedule, denoiser.cond
        return self

    def __call__(self, x, t, **cond):
        return self.denoiser(x, t, **cond) * torch.inf


def test_where_no_module_is_to_blame_the_run_is(tmp_path):
    tiny_folders.sd().save_pretrained(tmp_path)
    with pytest.raises(sf.Diverged, match="left the finite numbers between evaluations, in float32: fewer guidance"):
        sf.load(tmp_path)("a", control=[Endless()], **CALL)
