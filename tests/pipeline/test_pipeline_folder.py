"""What is saved is loaded, exactly; everything else is refused before a tensor is read."""

import json
import pickle
import shutil
import struct
import zipfile

import pytest
import torch
from pipeline_toys import make, make_cloud, stirred

import sfumato as sf
from sfumato.codecs import AutoencoderKLConfig
from sfumato.nets import DiTConfig, UNetConfig
from sfumato.pipeline import Defaults
from sfumato.solvers import DDIM, Heun


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_loaded_pipeline_makes_the_same_samples(tmp_path, dtype):
    pipe = make(defaults=Defaults(solver=Heun(), steps=2)).to(dtype)
    pipe.save(tmp_path / "m")
    again = sf.load(tmp_path / "m")
    assert torch.equal(again("dog", seed=3).tensor, pipe("dog", seed=3).tensor)
    assert again.sha256() == pipe.sha256()
    assert again.config() == sf.load(tmp_path / "m").config()
    assert (again.defaults, again.classes, again.modality) == (pipe.defaults, pipe.classes, pipe.modality)
    assert not again.denoiser.training


def test_all_networks_and_parts_come_back(tmp_path):
    config = DiTConfig(size=4, channels=1, patch=2, layers=1, width=16, heads=2, num_classes=3)
    dit = sf.Preconditioned(
        stirred(config.build()), sf.ZeroTerminalSNR(base=sf.VPScaledLinear()), sf.Karras(), sf.EDM(limit=7.0)
    )
    pipes = {
        "dit": sf.Pipeline(
            denoiser=dit, shape=(1, 4, 4), defaults=Defaults(solver=DDIM(eta=0.5), grid="uniform", steps=2)
        ),
        "cloud": make_cloud(),
    }
    for name, pipe in pipes.items():
        pipe.references = ("ho2020ddpm",)
        pipe.save(tmp_path / name)
        again = sf.load(str(tmp_path / name))
        assert torch.equal(again(seed=1).tensor, pipe(seed=1).tensor)
        assert again.denoiser.schedule == pipe.denoiser.schedule
        assert again.denoiser.scaling == pipe.denoiser.scaling
        assert again.references == ("ho2020ddpm",)


def test_nothing_is_initialised_and_no_randomness_is_used(tmp_path, monkeypatch):
    make().save(tmp_path / "m")
    before = torch.get_rng_state()
    for name in ("normal_", "uniform_", "trunc_normal_", "zero_", "fill_"):
        real = getattr(torch.Tensor, name, None)
        if real is not None:
            watched = lambda t, *a, real=real, **k: real(t, *a, **k) if t.is_meta else pytest.fail("initialised")
            monkeypatch.setattr(torch.Tensor, name, watched)
    sf.load(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_never_overwrites(pipe, tmp_path):
    (tmp_path / "empty").mkdir()
    pipe.save(tmp_path / "empty")
    before = (tmp_path / "empty" / "model.safetensors").read_bytes()
    for target in ("empty", "file"):
        if target == "file":
            (tmp_path / target).write_text("x")
        with pytest.raises(sf.InputError, match="nothing is overwritten"):
            make(seed=1).save(tmp_path / target)
    assert (tmp_path / "empty" / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file"]
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == ["model.safetensors", "sfumato.json"]


def test_a_failed_save_leaves_nothing(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("os.rename", lambda *a: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(sf.CheckpointError, match="Read-only"):
        pipe.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_their_configuration_does_not_make_are_not_written(pipe, tmp_path):
    pipe.denoiser.net.register_parameter("extra", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(sf.InputError, match="not those that its `config` builds"):
        pipe.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_codec_of_two_dtypes_comes_back_and_a_network_of_two_is_not_written(tmp_path):
    net = UNetConfig(
        in_channels=4, out_channels=4, channels=8, multipliers=(1,), layers=1, attention=(), head_width=None, groups=2
    )
    codec = AutoencoderKLConfig(widths=(8, 8), layers=1, latent=4, groups=2).build().eval()
    codec.decoder.half()
    pipe = sf.Pipeline(denoiser=sf.Preconditioned(net.build(), sf.VPCosine(), sf.V()), shape=(4, 4, 4), codec=codec)
    again = sf.load(pipe.save(tmp_path / "m")).codec.state_dict()
    assert {name: t.dtype for name, t in again.items()} == {name: t.dtype for name, t in codec.state_dict().items()}
    assert all(torch.equal(again[name], t) for name, t in codec.state_dict().items())
    next(pipe.denoiser.net.children()).bfloat16()
    with pytest.raises(sf.InputError, match=r"bfloat16 and torch\.float32: bring them to one, pipe\.to\(dtype\)"):
        pipe.save(tmp_path / "n")
    assert not (tmp_path / "n").exists()


@pytest.fixture
def folder(tmp_path):
    make().save(tmp_path / "good")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    return tmp_path / "bad"


def edit(folder, change):
    """Apply `change` to the configuration."""
    file = folder / "sfumato.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def named(data, names):
    data["conditioner"]["names"] = names


CONFIGS = {
    "unknown key": (lambda d: d.update(codek=[]), "no key 'codek'; did you mean 'codec'"),
    "missing key": (lambda d: d.pop("shape"), "needs shape"),
    "unknown kind": (lambda d: d["denoiser"]["net"].update(kind="UNetConfg"), "did you mean 'UNetConfig'"),
    "code as kind": (lambda d: d["denoiser"]["net"].update(kind="os.system"), "unknown kind 'os.system'"),
    "not a network": (lambda d: d["denoiser"].update(net={"kind": "VPCosine"}), "is not a network"),
    "not a schedule": (lambda d: d["denoiser"].update(schedule={"kind": "V"}), "not a Schedule"),
    "not a prediction": (lambda d: d["denoiser"].update(prediction={"kind": "Plain"}), "not a Prediction"),
    "unknown part": (lambda d: d["denoiser"].update(vae={}), "no key 'vae'"),
    "unknown field": (lambda d: d["denoiser"]["net"].update(chanels=1), "did you mean 'channels'"),
    "wrong type": (lambda d: d["denoiser"]["net"].update(channels="8"), "channels must be int"),
    "other width": (lambda d: d["denoiser"]["net"].update(channels=16), "the configuration says"),
    "more layers": (lambda d: d["denoiser"]["net"].update(layers=2), "more weights than|lacks the tensor"),
    "fewer classes": (lambda d: (d["denoiser"]["net"].update(num_classes=2), named(d, ["a", "b"])), "says"),
    "endless layers": (lambda d: d["denoiser"]["net"].update(layers=10**6), "more weights than"),
    "endless lists": (lambda d: d["denoiser"]["net"].update(layers=10**9), "more than 4194304"),
    "endless width": (lambda d: d["denoiser"]["net"].update(channels=2**40), "sfumato.json"),
    "negative width": (lambda d: d["denoiser"]["net"].update(channels=-8), "sfumato.json"),
    "other dtype": (lambda d: d.update(dtype="float16"), "says torch.float16"),
    "unknown dtype": (lambda d: d.update(dtype="int8"), "dtype 'int8'"),
    "list as dtype": (lambda d: d.update(dtype=[]), "dtype"),
    "names": (lambda d: named(d, ["a", "b"]), "2 different class names"),
    "name types": (lambda d: named(d, [1, 2, 3]), "names must be str"),
    "same names": (lambda d: named(d, ["a", "b", "b"]), "2 different names for 3 classes"),
    "conditioner": (lambda d: d.update(conditioner={"kind": "VPCosine"}), "is not a conditioner"),
    "codec": (lambda d: d.update(codec={"kind": "IdentityConfig"}), "the codec has 3 channels"),
    "extra": (lambda d: d.update(extra={"kind": "Pixels"}), "not a Extra"),
    "shape": (lambda d: d.update(shape=[2, 4, 4]), "pixels have the shape"),
    "shape type": (lambda d: d.update(shape=[1.5, 4, 4]), "list of sizes"),
    "huge shape": (lambda d: d.update(shape=[1, 10**9, 10**9]), "list of sizes"),
    "defaults": (lambda d: d["defaults"].update(grid="karas"), "did you mean 'karras'"),
    "solver": (lambda d: d["defaults"].update(solver={"kind": "Pixels"}), "not a Solver"),
    "later format": (lambda d: d.update(format_version=3), "format_version 3"),
    "no table": (lambda d: d.update(denoiser=[]), "must be a table"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_does_not_fit_is_refused_before_a_tensor_is_read(folder, case, monkeypatch):
    change, message = CONFIGS[case]
    edit(folder, change)
    monkeypatch.setattr("safetensors.torch.load_file", lambda *a, **k: pytest.fail("a tensor was read"))
    with pytest.raises(sf.CheckpointError, match=message) as caught:
        sf.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": 1, "format_version": 1}', "given twice"),
        ("[]", "does not hold a table"),
        ("{", "not JSON"),
        ("[" * 200_000, "not JSON"),
        ('{"a": "' + "x" * 2_000_000 + '"}', "above 1 MiB"),
    ],
)
def test_hostile_json(folder, text, message):
    (folder / "sfumato.json").write_text(text)
    with pytest.raises(sf.CheckpointError, match=message):
        sf.load(folder)


def rewrite(path, change):
    """Apply `change` to the header of a safetensors file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    text = (json.dumps(header) if text is None else text).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update({"../../x": h.pop("conv_in.weight")}), "refused"),
        (lambda h: h.update({"conv_on.weight": h.pop("conv_in.weight")}), "lacks the tensor 'conv_in.weight'"),
        (lambda h: h["conv_in.weight"].update(shape=[8, 3, 3]), "the configuration says"),
        (lambda h: h["conv_in.weight"].update(dtype="I32"), "the configuration says"),
        (lambda h: h["conv_in.weight"].update(data_offsets=[0, 4]), "does not take"),
        (lambda h: h.pop("conv_in.bias") and None, "."),
        (lambda h: json.dumps(h)[:-1] + ', "conv_in.weight": ' + json.dumps(h["conv_in.weight"]) + "}", "twice"),
    ],
)
def test_hostile_weights(folder, change, message, monkeypatch):
    rewrite(folder / "model.safetensors", change)
    monkeypatch.setattr("safetensors.torch.load_file", lambda *a, **k: pytest.fail("a tensor was read"))
    with pytest.raises(sf.CheckpointError, match=message) as caught:
        sf.load(folder)
    assert "\n" not in str(caught.value)


def test_cut_weights(folder):
    path = folder / "model.safetensors"
    for keep in (0, 7, 100, len(path.read_bytes()) - 1):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(sf.CheckpointError):
            sf.load(folder)
    path.unlink()
    with pytest.raises(sf.CheckpointError, match="cannot read"):
        sf.load(folder)


class _Code:
    def __reduce__(self):
        return (pytest.fail, ("code was run",))


def test_other_layouts_and_pickles_are_refused_unread(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pytorch_model.BIN").write_bytes(pickle.dumps(_Code()))
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps(_Code()))
    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(_Code()))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "single").write_bytes(b"\0" * 100)
    expected = {
        "other": "class 'None' is not read",
        "bin": "allow-pickle",
        "weights.safetensors": "is a pickle.*allow-pickle",
        "model.ckpt": "is a pickle.*allow-pickle",
        "nothing": "holds no model",
        "single": "not a whole safetensors file",
        "absent": "there is no",
    }
    for name, message in expected.items():
        with pytest.raises((sf.InputError, sf.CheckpointError), match=message) as caught:
            sf.load(tmp_path / name)
        assert "\n" not in str(caught.value)
