"""`sfumato convert`: every layout into every other and back, bit for bit; pickles give their weights and no more."""

import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sfumato as sf
from sfumato.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))
pytest.importorskip("diffusers")
import tiny_folders


def convert(*words):
    return main(["convert", *map(str, words)])


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "theirs"
    tiny_folders.sd().save_pretrained(folder)
    return folder


def test_layouts_go_round(theirs, tmp_path, capsys):
    first = sf.load(theirs)
    assert convert(theirs, tmp_path / "ours", "--layout", "sfumato") == 0
    assert convert(tmp_path / "ours", tmp_path / "one.safetensors") == 0
    assert convert(tmp_path / "one.safetensors", tmp_path / "back", "--layout", "diffusers", "--tokenizer", theirs) == 0
    assert "files" in capsys.readouterr().out
    assert sf.load(tmp_path / "back").sha256() == first.sha256()
    for part, name in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        before, after = (load_file(f / part / f"{name}.safetensors") for f in (theirs, tmp_path / "back"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)
    half = tmp_path / "half"
    assert convert(theirs, half, "--layout", "diffusers", "--dtype", "float16") == 0
    stored = load_file(half / "unet" / "diffusion_pytorch_model.safetensors")
    full = load_file(theirs / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(stored[k], full[k].half()) for k in full)


def test_an_autoencoder_alone_goes_into_every_layout(theirs, tmp_path, capsys):
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    source, name = theirs / "vae", "diffusion_pytorch_model.safetensors"
    config = AutoencoderKL.from_pretrained(source).config
    codec = sf.load_codec(source)
    assert convert(source, tmp_path / "one.safetensors") == 0
    peer = load_file(tmp_path / "one.safetensors")
    converted = convert_ldm_vae_checkpoint({f"first_stage_model.{k}": v for k, v in peer.items()}, config)
    before = load_file(source / name)
    assert converted.keys() == before.keys()
    assert all(torch.equal(converted[k], before[k]) for k in before)
    assert convert(source, tmp_path / "back", "--layout", "diffusers", "--dtype", "float16") == 0
    after = load_file(tmp_path / "back" / name)
    assert all(torch.equal(after[k], before[k].half()) for k in before)
    assert sf.load_codec(tmp_path / "back").config == codec.config
    assert convert(source, tmp_path / "ours", "--layout", "sfumato") == 0
    ours = load_file(tmp_path / "ours" / "codec.safetensors")
    assert all(torch.equal(ours[k], v) for k, v in codec.state_dict().items())
    assert convert(tmp_path / "one.safetensors", tmp_path / "two", "--layout", "diffusers") == 2
    assert "autoencoder" in capsys.readouterr().err


def test_what_is_asked_wrongly(theirs, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("x")
    cases = {
        ("there", "--layout", "sfumato"): "nothing is overwritten",
        ("new",): "say which --layout",
        ("new", "--layout", "single"): "ends in .safetensors",
        ("new.safetensors", "--layout", "diffusers"): "a folder does not",
    }
    for (name, *more), message in cases.items():
        assert convert(theirs, tmp_path / name, *more) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]


def test_the_folders_of_a_new_name_are_made(theirs, tmp_path, capsys):
    target = tmp_path / "new" / "deeper" / "one.safetensors"
    assert convert(theirs, target, "--dtype", "float16") == 0
    assert target.is_file()
    assert convert(theirs, tmp_path / "other" / "folder") == 2  # no layout is said: what was made for it goes again
    assert not (tmp_path / "other").exists()
    capsys.readouterr()
    assert convert(theirs, target / "x.safetensors") == 2
    said = capsys.readouterr().err
    assert "cannot write to" in said
    assert said.count("\n") == 1


def test_a_picture_holds_no_weights(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "p.jpg")
    for words in (["inspect", tmp_path / "p.jpg"], ["convert", tmp_path / "p.jpg", tmp_path / "new.safetensors"]):
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr().err
        assert f"p.jpg is no file of weights: {words[0]} reads" in said
        assert said.count("\n") == 1
    save_file({"a": torch.ones(2)}, tmp_path / "blob")  # as the hub's cache names them
    assert main(["inspect", str(tmp_path / "blob")]) == 0


def test_a_pickle_gives_its_weights_alone(tmp_path, capsys):
    weights = {"a.weight": torch.randn(3, 4), "b": torch.arange(3)}
    weights["tied"] = weights["a.weight"]
    held = {"state_dict": weights, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(held, tmp_path / "old.ckpt")
    torch.save(weights, tmp_path / "older.pt", _use_new_zipfile_serialization=False)
    assert convert(tmp_path / "old.ckpt", tmp_path / "no.safetensors") == 2
    assert "--allow-pickle" in capsys.readouterr().err
    for name in ("old.ckpt", "older.pt"):
        new = tmp_path / f"{name}.safetensors"
        assert convert(tmp_path / name, new, "--allow-pickle") == 0
        read = load_file(new)
        assert read.keys() == weights.keys()
        assert all(torch.equal(read[k], weights[k]) for k in weights)
    assert convert(tmp_path / "old.ckpt", tmp_path / "old.ckpt.safetensors", "--allow-pickle") == 2


class _Code:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


@pytest.mark.slow  # a process each; `test_interop_pickles` reads the same forms in this one
def test_hostile_pickles_run_nothing_and_fill_nothing(tmp_path, capsys):
    marker = tmp_path / "ran"
    torch.save({"state_dict": {"a": torch.ones(2)}, "x": _Code(marker)}, tmp_path / "code.ckpt")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"a": _Code(marker)}))
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "zeros.pt")
    with (
        zipfile.ZipFile(tmp_path / "zeros.pt") as stored,
        zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    (tmp_path / "long.bin").write_bytes(b"\x80\x02" + b"(" * 5_000_000)
    for name in ("code.ckpt", "plain.bin", "bomb.ckpt", "long.bin"):
        assert convert(tmp_path / name, tmp_path / "out.safetensors", "--allow-pickle") == 4, name
        said = capsys.readouterr().err
        assert "is refused" in said
        assert said.count("\n") == 1
        assert not (tmp_path / "out.safetensors").exists()
    assert not marker.exists()


def test_a_reader_that_needs_too_much_is_stopped(tmp_path):
    from sfumato.interop.pickles import convert_pickle

    torch.save({"a": torch.zeros(30 << 20)}, tmp_path / "big.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(sf.CheckpointError, match="refused"):
        convert_pickle(tmp_path / "big.pt", tmp_path / "big.safetensors", memory=-(200 << 20))
    with pytest.raises(sf.CheckpointError, match=r"refused: it took more than 0\.01 s"):
        convert_pickle(tmp_path / "big.pt", tmp_path / "big.safetensors", seconds=0.01)
    assert not (tmp_path / "big.safetensors").exists()


def test_a_folder_of_pickles(theirs, tmp_path):
    old = tmp_path / "old"
    for file in theirs.rglob("*"):
        if file.is_file():
            (old / file.relative_to(theirs)).parent.mkdir(parents=True, exist_ok=True)
            (old / file.relative_to(theirs)).write_bytes(file.read_bytes())
    file = old / "text_encoder" / "model.safetensors"
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    assert convert(old, tmp_path / "new", "--allow-pickle") == 0
    assert sf.load(tmp_path / "new").sha256() == sf.load(theirs).sha256()
    assert json.loads((tmp_path / "new" / "model_index.json").read_text())
    assert not list((tmp_path / "new").rglob("*.bin"))


def test_a_single_file_is_sampled(theirs, tmp_path, capsys):
    assert convert(theirs, tmp_path / "one.safetensors") == 0
    words = ["sample", str(tmp_path / "one.safetensors"), "a red cat", "-n", "1", "--steps", "2", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "give tokenizer=" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "out"), "--tokenizer", str(theirs)]) == 0
    assert main(["sample", str(theirs), *words[2:], "--out", str(tmp_path / "folder")]) == 0
    (one,), (other,) = ((tmp_path / name).glob("*.png") for name in ("out", "folder"))
    from PIL import Image

    assert Image.open(one).tobytes() == Image.open(other).tobytes()


def test_what_a_layout_has_no_place_for_is_named(theirs, tmp_path, capsys):
    assert convert(theirs, tmp_path / "one.safetensors") == 0
    assert "note" not in capsys.readouterr().err
    held = load_file(tmp_path / "one.safetensors")
    held |= {"model_ema.decay": torch.ones(()), "logvar": torch.ones(3), "who.knows": torch.ones(2)}
    with safe_open(tmp_path / "one.safetensors", "pt") as one:
        save_file(held, tmp_path / "more.safetensors", one.metadata())
    words = ["--layout", "diffusers", "--tokenizer", theirs]
    assert convert(tmp_path / "more.safetensors", tmp_path / "folder", *words) == 0
    said = capsys.readouterr().err
    assert f"note: {tmp_path / 'more.safetensors'}: not used: who.knows\n" in said
    assert "note: not written: logvar, model_ema.decay, who.knows (a diffusers folder has no place for it)\n" in said
    assert convert(tmp_path / "more.safetensors", tmp_path / "ours", "--layout", "sfumato", "--tokenizer", theirs) == 0
    assert "not written" not in capsys.readouterr().err
    assert convert(tmp_path / "ours", tmp_path / "two.safetensors") == 0
    again = load_file(tmp_path / "two.safetensors")
    assert again.keys() == held.keys()
    assert all(torch.equal(again[k], held[k]) for k in held)


def test_a_network_alone_is_a_folder_that_diffusers_loads(theirs, tmp_path, capsys):
    import diffusers

    assert convert(theirs, tmp_path / "one.safetensors") == 0
    start = "model.diffusion_model."
    net = {k.removeprefix(start): v for k, v in load_file(tmp_path / "one.safetensors").items() if k.startswith(start)}
    with safe_open(tmp_path / "one.safetensors", "pt") as one:
        said = json.loads(one.metadata()["sfumato"]) | {"codec": None, "family": None, "towers": {}}
    save_file(net, tmp_path / "net.safetensors", {"sfumato": json.dumps(said)})
    assert convert(tmp_path / "net.safetensors", tmp_path / "net", "--layout", "diffusers") == 0
    assert "not written: prediction, schedule (a network alone in a folder" in capsys.readouterr().err
    loaded = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "net").state_dict()
    given = load_file(theirs / "unet" / "diffusion_pytorch_model.safetensors")
    assert loaded.keys() == given.keys()
    assert all(torch.equal(loaded[k], given[k]) for k in given)
    assert sf.load(tmp_path / "net", prediction=sf.Eps()).shape[0] == 4


def test_the_size_of_a_pixarts_pictures(tmp_path, capsys):
    from sfumato.interop.links import write
    from sfumato.interop.single import pixart
    from sfumato.nets import PixArtConfig

    config = PixArtConfig(size=64, scale=1.0, layers=1, context=16, null_tokens=120)
    net = config.build().half()
    save_file(write(pixart.links(net), net.state_dict()), tmp_path / "p.safetensors")
    words = [tmp_path / "p.safetensors", tmp_path / "ours", "--layout", "sfumato"]
    assert convert(*words) == 2
    assert "give network=, such as replace(pixart_alpha(512), null_tokens=120), or --picture" in capsys.readouterr().err
    assert convert(*words, "--picture", 500) == 2
    assert "500 pixels" in capsys.readouterr().err
    assert convert(*words, "--picture", 512) == 0
    assert sf.load(tmp_path / "ours").denoiser.net.config == config
    assert convert(tmp_path / "ours", tmp_path / "back.safetensors") == 0
    one, two = load_file(tmp_path / "p.safetensors"), load_file(tmp_path / "back.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    save_file({"decoder.conv_in.weight": torch.ones(2)}, tmp_path / "vae.safetensors")
    assert convert(tmp_path / "vae.safetensors", tmp_path / "new", "--layout", "sfumato", "--picture", 512) == 2


def test_what_a_trainer_put_beside_the_weights_is_named(tmp_path, capsys):
    held = {"model": {"w": torch.ones(2)}, "ema": {"w": torch.zeros(2)}, "opt": {"lr": 0.1}, "epoch": 3}
    torch.save(held, tmp_path / "run.pt")
    assert convert(tmp_path / "run.pt", tmp_path / "run.safetensors", "--allow-pickle") == 0
    assert "note: left out: ema, epoch, opt\n" in capsys.readouterr().err
    assert torch.equal(load_file(tmp_path / "run.safetensors")["w"], torch.ones(2))


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as done:
        convert("--help")
    assert done.value.code == 0
    assert "sfumato convert model.safetensors my-model --layout diffusers" in capsys.readouterr().out
