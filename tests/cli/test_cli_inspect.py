"""`sfumato inspect` of foreign files and folders: kind, parts, contract, what is left over, what a trainer said."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sfumato as sf
from sfumato.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))
pytest.importorskip("diffusers")
import tiny_folders

from sfumato.interop.single.writing import write_single


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    changes = {"block_out_channels": (32, 64), "attention_head_dim": 8, "norm_num_groups": 32}
    tiny_folders.sd(unet=tiny_folders.unet(**changes)).save_pretrained(folder / "theirs")
    write_single(sf.load(folder / "theirs"), folder / "said.safetensors")
    held = load_file(folder / "said.safetensors")
    extra = {"model_ema.x": torch.ones(2), "who.knows": torch.ones(3)}
    save_file(held | extra, folder / "one.safetensors", {"modelspec.title": "Tiny"})
    return folder


def inspected(path, capsys):
    assert main(["inspect", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(path)]) == 0
    return said, capsys.readouterr().out


def test_a_checkpoint_in_one_file(model, capsys):
    said, shown = inspected(model / "one.safetensors", capsys)
    pipe = sf.load(model / "theirs")
    assert said["kind"] == "checkpoint, stable-diffusion-v1"
    assert said["sha256"] == hashlib.sha256((model / "one.safetensors").read_bytes()).hexdigest()
    assert said["network"] == pipe.config()["denoiser"]["net"]
    assert said["contract"]["prediction"] == {"kind": "Eps"}
    assert said["contract"]["label"] == pipe.config()["denoiser"]["scaling"]
    assert said["contract"]["schedule"]["alphas_cumprod"] == "1000 from 0.99915 to 0.0046601"
    assert said["parts"]["network"] == sum(p.numel() for p in pipe.denoiser.net.parameters())
    assert said["parts"]["autoencoder"] == sum(p.numel() for p in pipe.codec.parameters())
    assert said["parts"]["clip"] == sum(p.numel() for p in pipe.conditioner.towers["clip"].model.parameters())
    assert said["not used"] == ["who.knows"]
    assert said["carried along"] == "model_ema.x"
    assert said["metadata"] == {"modelspec.title": "Tiny"}
    assert "not used" in shown


def test_a_folder_of_theirs(model, capsys):
    said, shown = inspected(model / "theirs", capsys)
    assert said["kind"] == "diffusers folder, StableDiffusionPipeline"
    assert said["sha256"] == sf.load(model / "theirs").sha256()
    assert set(said["parts"]) == {"network", "codec", "clip"}
    assert "Table(alphas_cumprod=[0.99915 ... 0.0046601: 1000])" in shown


def test_what_a_trainer_said_of_a_lora(tmp_path, capsys):
    said = {
        "ss_network_dim": "8",
        "ss_tag_frequency": json.dumps({"10_cat": {"a cat": 10}}),
        "ss_base_model": "x" * 900,
    }
    down = {f"lora_unet_x.{end}": torch.ones(2, 2) for end in ("lora_down.weight", "lora_up.weight")}
    save_file(down | {"lora_unet_x.alpha": torch.tensor(4.0).half()}, tmp_path / "lora.safetensors", said)
    found, shown = inspected(tmp_path / "lora.safetensors", capsys)
    assert found["kind"] == "LoRA"
    assert found["dtype"] == "float32 (2) and float16 (1)"
    assert (found["modules"], found["ranks"], found["of"]) == (1, "2 (1)", "unet")
    assert found["metadata"]["ss_network_dim"] == 8
    assert found["metadata"]["ss_tag_frequency"] == {"10_cat": {"a cat": 10}}
    assert len(found["metadata"]["ss_base_model"]) == 500
    assert "ss_tag_frequency" in shown


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("decoder.conv_in.weight", "autoencoder"),
        ("emb_params", "textual inversion"),
        ("<a hat>", "textual inversion"),
        ("image_proj.proj.weight", "IP-Adapter"),
        ("adapter.body.0.resnets.0.block1.weight", "T2I-Adapter"),
        ("control_model.zero_convs.0.0.weight", "ControlNet"),
        ("lora_unet_x.hada_w1_a", "LyCORIS"),
        ("down_blocks.0.x", "network of a diffusers folder"),
        ("hello", "tensors of no kind that is known here"),
    ],
)
def test_other_files(name, kind, tmp_path, capsys):
    save_file({name: torch.ones(2)}, tmp_path / "x.safetensors")
    said, shown = inspected(tmp_path / "x.safetensors", capsys)
    assert said["kind"] == kind
    assert said["dtype"] == "float32"
    assert said["sha256"] in shown
    if kind == "textual inversion":
        assert said["word"] == ("x" if name == "emb_params" else name)
        assert said["vectors"] == {"clip": "1 of width 2"}
    if kind == "autoencoder":
        assert said["contract"].startswith("the scale of its latents is in no file")


def test_a_pickle_is_not_read(tmp_path, capsys):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.ckpt")
    assert main(["inspect", str(tmp_path / "x.ckpt")]) == 2
    assert "--allow-pickle" in capsys.readouterr().err


def test_parts_of_a_model(model, capsys):
    for part, kind in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"), ("text_encoder", "CLIPTextModel")):
        said, shown = inspected(model / "theirs" / part, capsys)
        assert said["kind"] == f"part of a model, {kind}"
        assert said["dtype"] == "float32"
        assert said["parameters"] > 0
        assert said["sha256"] in shown
    assert main(["inspect", str(model / "theirs" / "scheduler")]) == 2
    assert "holds no model" in capsys.readouterr().err
