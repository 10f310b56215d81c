"""Models by name: only the files that are needed are asked for, and what is cached needs no network."""

import fnmatch
import json
import os
import sys

import pytest
import tiny_folders

import sfumato as sf
from sfumato.interop.hub import fetched, named

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give a cache with one model in it, as the client lays it out, and no network."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "cache" / "models--somebody--tiny"
    commits = {"main": "a" * 40, "v1": "b" * 40}
    for seed, (name, commit) in enumerate(commits.items()):
        theirs = tiny_folders.sd(unet=tiny_folders.unet(in_channels=4 + 5 * seed))
        theirs.save_pretrained(model / "snapshots" / commit)
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / name).write_text(commit)
    return model


def test_a_cached_model_needs_no_network(cache):
    pipe = sf.load("somebody/tiny")
    assert pipe.sha256() == sf.load(cache / "snapshots" / ("a" * 40)).sha256()
    assert sf.load("somebody/tiny", revision="v1").denoiser.net.config.extra == 5
    with pytest.raises(sf.InputError, match="the hub does not give it at v2") as caught:
        sf.load("somebody/tiny", revision="v2")
    assert "\n" not in str(caught.value)
    with pytest.raises(sf.InputError, match="there is no nobody/nothing on this disk"):
        sf.load("nobody/nothing")


FILES = """.gitattributes README.md model_index.json v1-5-pruned.ckpt v1-5-pruned.safetensors
safety_checker/config.json safety_checker/model.safetensors safety_checker/pytorch_model.bin
feature_extractor/preprocessor_config.json scheduler/scheduler_config.json
text_encoder/config.json text_encoder/model.safetensors text_encoder/model.fp16.safetensors
text_encoder/pytorch_model.bin text_encoder/flax_model.msgpack
tokenizer/merges.txt tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json
unet/config.json unet/diffusion_pytorch_model.bin unet/diffusion_pytorch_model.non_ema.safetensors
unet/diffusion_pytorch_model-00001-of-00002.safetensors unet/diffusion_pytorch_model.safetensors.index.json
unet/diffusion_pytorch_model.fp16.safetensors unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors
vae/config.json vae/diffusion_pytorch_model.safetensors vae/diffusion_pytorch_model.fp16.safetensors
vae_decoder/model.onnx"""
PLAIN = {
    *("model_index.json", "scheduler/scheduler_config.json"),
    *("text_encoder/config.json", "text_encoder/model.safetensors"),
    *("tokenizer/merges.txt", "tokenizer/special_tokens_map.json"),
    *("tokenizer/tokenizer_config.json", "tokenizer/vocab.json"),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors.index.json"),
    *("unet/diffusion_pytorch_model-00001-of-00002.safetensors",),
    *("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
}
HALF = {name for name in PLAIN if not name.endswith(".safetensors")} | {
    "text_encoder/model.fp16.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
}


@pytest.mark.parametrize(("variant", "expected"), [(None, PLAIN), ("fp16", HALF)])
def test_only_what_is_needed_is_asked_for(variant, expected, tmp_path, monkeypatch):
    index = {"unet": ["d", "U"], "vae": ["d", "V"], "text_encoder": ["t", "C"], "tokenizer": ["t", "T"]}
    index |= {"scheduler": ["d", "S"], "safety_checker": ["s", "C"], "text_encoder_2": [None, None], "_x": "y"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    asked = {}

    def download(**words):
        return str(tmp_path / words["filename"])

    def snapshot(**words):
        asked.update(words)
        return str(tmp_path)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert fetched("a/b", "main", variant) == tmp_path
    assert (asked["repo_id"], asked["revision"]) == ("a/b", "main")
    found = {
        name
        for name in FILES.split()
        if any(fnmatch.fnmatch(name, p) for p in asked["allow_patterns"])
        and not any(fnmatch.fnmatch(name, p) for p in asked["ignore_patterns"])
    }
    assert found == expected
    assert fetched("a/b/one.safetensors") == tmp_path / "one.safetensors"


def test_parts_without_the_variant_are_fetched_plain_and_a_depth_model_with_its_settings(tmp_path, monkeypatch):
    asked = []
    for part in ("unet", "vae", "depth_estimator"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text("{}")
    (tmp_path / "depth_estimator" / "model.fp16.safetensors").write_bytes(b"")
    index = {"unet": ["d", "U"], "vae": ["d", "V"], "depth_estimator": ["t", "D"], "feature_extractor": ["t", "F"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    monkeypatch.setattr(hub, "hf_hub_download", lambda **words: str(tmp_path / words["filename"]))
    monkeypatch.setattr(hub, "snapshot_download", lambda **words: (asked.append(words), str(tmp_path))[1])
    fetched("a/b", None, "fp16")
    first, second = (words["allow_patterns"] for words in asked)
    assert "feature_extractor/*.json" in first
    assert "depth_estimator/*.fp16.safetensors" in first
    assert [name for name in second if name.endswith("*.safetensors")] == ["vae/*.safetensors"]
    assert "*.fp16*" in asked[1]["ignore_patterns"]
    asked.clear()
    fetched("a/b")
    assert len(asked) == 1


def test_names_and_what_is_missing(tmp_path, monkeypatch):
    assert named("a/b")
    assert named("a/b/c/d.safetensors")
    for name in ("a", "/a/b", "a/b/c", "../b", "a/..", "a/b/../c.safetensors", "a b/c", "./a/b", "https://a/b", "a/"):
        assert not named(name), name
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(sf.InputError, match=r'pip install "sfumato\[hub\]"'):
        sf.load("somebody/tiny")
    monkeypatch.chdir(tmp_path)
    os.makedirs("some/folder")
    with pytest.raises(sf.InputError, match="holds no model"):
        sf.load("some/folder")
    with pytest.raises(sf.InputError, match=r"revision='v1' is for models of the hub"):
        sf.load("some/folder", revision="v1")
