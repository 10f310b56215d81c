"""LoRA in whole pipelines: diffusers' pictures from the same file, through Python and the command line."""

import json
from dataclasses import replace
from functools import partial

import pytest
import tiny_folders
import torch
from safetensors.torch import save_file

import sfumato as sf
from sfumato import InputError
from sfumato.cli import main
from sfumato.control.lora import attached
from sfumato.interop.diffusers.writing import write_pipeline
from sfumato.interop.lora import read_lora, write_lora
from sfumato.interop.single.writing import write_single
from sfumato.pipeline.lora import parts_of


def _file(path, theirs, *, towers=True, seed=0):
    """Write a LoRA of kohya's form for the U-Net and the text encoder of a pipeline of theirs."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}

    def add(stem, weight):
        down = 0.5 * torch.randn(3, *weight.shape[1:], generator=g)
        up = 0.5 * torch.randn(len(weight), 3, *(1 for _ in weight.shape[2:]), generator=g)
        tensors.update({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up})
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)

    for name, module in theirs.unet.named_modules():
        if "attentions" in name and isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            add("lora_unet_" + name.replace(".", "_"), module.weight)
    for name, module in theirs.text_encoder.named_modules():
        if towers and isinstance(module, torch.nn.Linear):
            add("lora_te_text_model_" + name.removeprefix("text_model.").replace(".", "_"), module.weight)
    save_file(tensors, path)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    theirs = tiny_folders.sd()
    theirs.save_pretrained(folder / "model")
    _file(folder / "one.safetensors", theirs)
    _file(folder / "two.safetensors", theirs, towers=False, seed=1)
    return folder, theirs, sf.load(folder / "model")


def _theirs(theirs, x):
    told = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt", "latents": x.clone()}
    return theirs("a red cat", negative_prompt="ugly", **told).images * 255


def _ours(pipe, theirs, x):
    grid = tiny_folders.times(theirs.scheduler, 4)
    out = pipe("a red cat", n=1, negative="ugly", guidance=3.0, grid=grid, solver="ddim", start=x)
    return (out.pixels + 1).clamp(0, 2) * 127.5


def test_the_pictures_of_load_lora_weights(case):
    folder, theirs, pipe = case
    x = tiny_folders.start((1, 4, 8, 8))
    plain = _ours(pipe, theirs, x)
    assert float((plain - _theirs(theirs, x)).abs().max()) < 0.1
    theirs.load_lora_weights(folder / "one.safetensors", adapter_name="one")
    theirs.load_lora_weights(folder / "two.safetensors", adapter_name="two")
    try:
        theirs.set_adapters(["one", "two"], [0.6, -0.3])
        expected = _theirs(theirs, x)
    finally:
        theirs.unload_lora_weights()
    assert float((expected - plain).abs().max()) > 5
    for apply in ({}, {"apply": attached}):
        changed = pipe.with_lora(folder / "one.safetensors", 0.6, **apply).with_lora(
            folder / "two.safetensors", -0.3, **apply
        )
        assert float((_ours(changed, theirs, x) - expected).abs().max()) < 0.1
        assert changed.sha256() != pipe.sha256()
    assert torch.equal(_ours(pipe.with_lora(folder / "one.safetensors", 0.0), theirs, x), plain)
    assert torch.equal(_ours(pipe, theirs, x), plain)
    merged = pipe.with_lora(folder / "two.safetensors")
    merged.save(folder / "merged")
    back = sf.load(folder / "merged")
    assert back.sha256() == merged.sha256()  # every weight; sums over mapped memory may round otherwise
    assert float((_ours(back, theirs, x) - _ours(merged, theirs, x)).abs().max()) < 0.1
    live = pipe.with_lora(folder / "one.safetensors", apply=attached)
    texts = replace(live, denoiser=pipe.denoiser)  # adapters of a text encoder alone
    for changed in (live, texts):
        assert changed.sha256() != pipe.sha256()
        for write in (changed.save, partial(write_pipeline, changed), partial(write_single, changed)):
            with pytest.raises(InputError, match=r"live LoRA adapters.* apply=sfumato\.control\.merged"):
                write(folder / "live.safetensors")


def test_what_fits_in_part_is_refused_until_asked_for(case, tmp_path):
    folder, theirs, pipe = case
    _file(tmp_path / "wide.safetensors", tiny_folders.sd(unet_changes={"layers_per_block": 2}))
    with pytest.raises(InputError, match=r"tensors of modules that this model does not have, such as 'lora_unet_down"):
        pipe.with_lora(tmp_path / "wide.safetensors")
    x = tiny_folders.start((1, 4, 8, 8))
    partly = pipe.with_lora(tmp_path / "wide.safetensors", partly=True)
    assert not torch.equal(_ours(partly, theirs, x), _ours(pipe, theirs, x))
    with pytest.raises(InputError, match="must be a finite number"):
        pipe.with_lora(folder / "one.safetensors", float("nan"))


def test_a_file_for_the_only_text_encoder_of_a_model_is_not_for_the_first_of_two(case, tmp_path):
    """XL's first encoder is that of version 1: the shapes fit, and the file was made for another model."""
    _, _, pipe = case
    tiny_folders.xl().save_pretrained(tmp_path / "xl")
    xl = sf.load(tmp_path / "xl")
    g = torch.Generator().manual_seed(0)
    halves = {"lora_down": torch.randn(2, 32, generator=g), "lora_up": torch.randn(32, 2, generator=g)}
    for tag in ("te", "te1"):
        name = f"lora_{tag}_text_model_encoder_layers_0_self_attn_q_proj"
        save_file({f"{name}.{half}.weight": t for half, t in halves.items()}, tmp_path / f"{tag}.safetensors")
    assert pipe.with_lora(tmp_path / "te.safetensors").sha256() != pipe.sha256()
    with pytest.raises(InputError, match=r"fits nothing here .*first 'lora_te_text.* made for another model"):
        xl.with_lora(tmp_path / "te.safetensors")
    assert xl.with_lora(tmp_path / "te1.safetensors").sha256() != xl.sha256()
    loras = read_lora(tmp_path / "te1.safetensors", parts_of(xl)).loras
    write_lora(tmp_path / "again.safetensors", loras, parts_of(xl), "kohya")
    assert set(read_lora(tmp_path / "again.safetensors", parts_of(xl)).loras) == {"clip_l"}


def test_the_command_line(case, tmp_path, capsys):
    folder, _, pipe = case
    call = ["sample", str(folder / "model"), "a cat", "-n", "1", "--steps", "2", "--json", "--device", "cpu"]
    loras = ["--lora", f"{folder / 'one.safetensors'}:0.5", "--lora", str(folder / "two.safetensors")]
    assert main([*call, *loras, "--out", str(tmp_path)]) == 0
    said = json.loads(capsys.readouterr().out)
    changed = pipe.with_lora(folder / "one.safetensors", 0.5).with_lora(folder / "two.safetensors")
    assert said["model"] == changed.sha256() != pipe.sha256()
    assert main([*call, "--lora", str(tmp_path / "none.safetensors")]) == 2
    assert "there is no LoRA file" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_diffusers_reads_what_is_written(case, form, tmp_path):
    folder, theirs, pipe = case
    parts = parts_of(pipe)
    loras = read_lora(folder / "one.safetensors", parts).loras
    assert set(loras) == {"net", "clip"}
    write_lora(tmp_path / "again.safetensors", loras, parts, form)
    x = tiny_folders.start((1, 4, 8, 8))
    theirs.load_lora_weights(tmp_path / "again.safetensors")
    try:
        expected = _theirs(theirs, x)
    finally:
        theirs.unload_lora_weights()
    assert float((_ours(pipe.with_lora(folder / "one.safetensors"), theirs, x) - expected).abs().max()) < 0.1
