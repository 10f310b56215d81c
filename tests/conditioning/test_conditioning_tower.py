"""Towers from files and to files: as `transformers` reads and writes them, and nothing that it should not."""

import json
import subprocess
import sys

import pytest
import tiny_text
import torch
from safetensors.torch import load_file, save_file

from sfumato import InputError
from sfumato.conditioning import Tower, read_tower, write_tower
from sfumato.conditioning.tower_files import blank
from sfumato.core.errors import CheckpointError

transformers = pytest.importorskip("transformers")

KINDS = {
    "CLIPTextModel": (tiny_text.clip_text, tiny_text.clip_tokenizer),
    "CLIPTextModelWithProjection": (lambda: tiny_text.clip_text(projection=24), tiny_text.clip_tokenizer),
    "T5EncoderModel": (tiny_text.t5, tiny_text.t5_tokenizer),
    "MT5EncoderModel": (lambda: tiny_text.t5(multilingual=True), tiny_text.t5_tokenizer),
    "BertModel": (tiny_text.bert, tiny_text.bert_tokenizer),
    "GemmaModel": (tiny_text.gemma, tiny_text.gemma_tokenizer),
}
TEXT = "a photo of the Cat, (red:1.3)!"


def made(kind: str) -> Tower:
    model, tokenizer = (make() for make in KINDS[kind])
    return Tower(model, tokenizer)


def last(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).last_hidden_state


def saved(tower: Tower, folder):
    """Write a tower with their own library."""
    tower.model.save_pretrained(folder / "model")
    tower.tokenizer.save_pretrained(folder / "tokenizer")
    return folder / "model", folder / "tokenizer"


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_they_write_and_they_read_what_it_writes(kind, tmp_path):
    theirs = made(kind)
    ours = read_tower(*saved(theirs, tmp_path))
    ids = torch.tensor([theirs.tokenizer(TEXT).input_ids])
    assert ours.tokenizer(TEXT).input_ids == ids[0].tolist()
    torch.testing.assert_close(ours(ids).tokens, last(theirs.model, ids), rtol=0, atol=5e-6)
    write_tower(ours, tmp_path / "again", tmp_path / "tokens")
    again, info = type(theirs.model).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in again.state_dict().items():
        assert torch.equal(value, theirs.model.state_dict()[name]), name
    torch.testing.assert_close(last(again.eval(), ids), last(theirs.model, ids), rtol=0, atol=5e-6)
    twice = read_tower(tmp_path / "again", tmp_path / "tokens")
    assert torch.equal(twice(ids).tokens, ours(ids).tokens)
    with pytest.raises(InputError, match="nothing is overwritten"):
        write_tower(ours, tmp_path / "again", tmp_path / "more")


@pytest.mark.parametrize("prefixed", [False, True])
def test_keys_with_the_prefix_of_released_files_and_without(prefixed, tmp_path):
    theirs = made("CLIPTextModel")
    model, tokenizer = saved(theirs, tmp_path)
    state = {k.removeprefix("text_model."): v for k, v in load_file(model / "model.safetensors").items()}
    state = {("text_model." if prefixed else "") + k: v for k, v in state.items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, model / "model.safetensors")
    ids = torch.tensor([theirs.tokenizer(TEXT).input_ids])
    torch.testing.assert_close(read_tower(model, tokenizer)(ids).tokens, last(theirs.model, ids), rtol=0, atol=5e-6)


def test_shards_variants_and_dtypes(tmp_path):
    theirs = made("T5EncoderModel")
    model, tokenizer = saved(theirs, tmp_path)
    state = load_file(model / "model.safetensors")
    ids = torch.tensor([theirs.tokenizer(TEXT).input_ids])
    whole = read_tower(model, tokenizer)(ids).tokens
    save_file({k: v.half() for k, v in state.items()}, model / "model.fp16.safetensors")
    (model / "model.safetensors").unlink()
    names = list(state)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({k: state[k] for k in part}, model / file)
    index = {"weight_map": {k: file for file, part in parts.items() for k in part}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.testing.assert_close(read_tower(model, tokenizer)(ids).tokens, whole, rtol=0, atol=5e-6)
    half = read_tower(model, tokenizer, variant="fp16")
    assert half.model.dtype == torch.float16
    kept = {n for n, p in half.model.named_parameters() if p.dtype == torch.float32}
    peer = transformers.T5EncoderModel.from_pretrained(model, variant="fp16", dtype=torch.float16)
    assert kept == {n for n, p in peer.named_parameters() if p.dtype == torch.float32} != set()
    for name, value in peer.state_dict().items():
        assert torch.equal(value, half.model.state_dict()[name]), name
    assert torch.equal(half(ids).tokens, last(peer.eval().requires_grad_(False), ids))
    assert read_tower(model, tokenizer, dtype=torch.bfloat16)(ids).tokens.dtype == torch.bfloat16
    index["weight_map"][names[0]] = "../one.safetensors"
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="no file of its folder"):
        read_tower(model, tokenizer)


def test_tokenizers_in_the_files_of_old_repositories(tmp_path):
    """vocab.json and merges.txt of CLIP, spiece.model of T5."""
    clip = tiny_text.clip_tokenizer()
    document = json.loads(clip.backend_tokenizer.to_str())["model"]
    old = tmp_path / "clip"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(document["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in document["merges"]]
    (old / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (old / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"})
    )
    model = tmp_path / "model"
    tiny_text.clip_text().save_pretrained(model)
    tower = read_tower(model, old)
    assert tower.tokenizer(TEXT, padding="max_length").input_ids == clip(TEXT, padding="max_length").input_ids

    pieces = pytest.importorskip("sentencepiece")
    (tmp_path / "corpus.txt").write_text("\n".join(["a photo of a red cat", "the dog in a hat", TEXT] * 20))
    pieces.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=29,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    t5 = tmp_path / "t5"
    t5.mkdir()
    (tmp_path / "spiece.model").rename(t5 / "spiece.model")
    (t5 / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 52}))  # of the encoder's 85 rows
    processor = pieces.SentencePieceProcessor(model_file=str(t5 / "spiece.model"))
    theirs = made("T5EncoderModel")
    model, _ = saved(theirs, tmp_path / "unigram")
    read = read_tower(model, t5)
    assert read.tokens("a photo of the cat") == processor.encode("a photo of the cat")
    assert read.around == ([], [1])


def test_the_end_token_is_found_by_its_id(tmp_path):
    """Released configurations ask for the largest id: the same, until tokens are added after the end token."""
    theirs = made("CLIPTextModelWithProjection")
    assert theirs.model.config.eos_token_id == 2
    ours = read_tower(*saved(theirs, tmp_path))
    ids = theirs.tokenizer([TEXT, "a"], padding="max_length", return_tensors="pt").input_ids
    torch.testing.assert_close(ours(ids).pooled, theirs.model(ids).text_embeds, rtol=0, atol=5e-6)
    ends = (ids == theirs.tokenizer.eos_token_id).int().argmax(1)
    states = ours(ids).tokens[[0, 1], ends]
    torch.testing.assert_close(ours(ids).pooled, ours.model.text_projection(states), rtol=0, atol=5e-6)

    theirs.tokenizer.add_tokens("<new>")
    theirs.model.resize_token_embeddings(len(theirs.tokenizer), mean_resizing=False)
    grown = read_tower(*saved(theirs, tmp_path / "grown"))
    ids = grown.tokenizer(["a <new> cat"], padding="max_length", return_tensors="pt").input_ids
    assert int(ids.argmax()) == 2
    end = grown.model.text_projection(grown(ids).tokens[:, 4])
    torch.testing.assert_close(grown(ids).pooled, end, rtol=0, atol=5e-6)


def test_what_is_missing_or_foreign_or_hostile_is_refused(tmp_path):
    theirs = made("CLIPTextModel")
    model, tokenizer = saved(theirs, tmp_path)
    config = json.loads((model / "config.json").read_text())
    state = load_file(model / "model.safetensors")

    def refused(match, *, change=None, tensors=None, error=CheckpointError):
        (model / "config.json").write_text(json.dumps(config | (change or {})))
        save_file(state if tensors is None else tensors, model / "model.safetensors")
        with pytest.raises(error, match=match) as caught:
            read_tower(model, tokenizer)
        assert "\n" not in str(caught.value)

    name = next(n for n in state if n.endswith("q_proj.weight"))
    refused("lacks", tensors={k: v for k, v in state.items() if k != name})
    refused("is it another model", tensors=state | {"control": torch.ones(1)})
    refused("has the shape", tensors=state | {name: torch.ones(3, 3)})
    refused("no text encoder is called", change={"architectures": ["LlamaForCausalLM"]}, error=InputError)
    refused("num_hidden_layers", change={"num_hidden_layers": 10**6})
    refused("hidden_size", change={"hidden_size": 10**9})
    refused("follows from its configuration", change={"hidden_act": "os.system"})
    refused("not supported", change={"quantization_config": {"quant_method": "bitsandbytes"}}, error=InputError)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        read_tower(model, tmp_path)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        read_tower(model, tokenizer)


def test_a_configuration_names_no_code(tmp_path):
    model, tokenizer = saved(made("BertModel"), tmp_path)
    for file in (model / "config.json", tokenizer / "tokenizer_config.json"):
        data = json.loads(file.read_text())
        data["auto_map"] = {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None], "AutoConfig": "evil.Evil"}
        data["_attn_implementation"] = data["attn_implementation"] = "someone/kernel"
        data |= {"num_labels": 4_000_000, "return_dict": False, "torchscript": True}
        file.write_text(json.dumps(data))
    (model / "evil.py").write_text("raise SystemExit('run')")
    (tokenizer / "evil.py").write_text("raise SystemExit('run')")
    tower = read_tower(model, tokenizer)
    assert type(tower.tokenizer).__name__ == "BertTokenizer"
    assert tower(torch.tensor([[2, 5, 3]])).tokens.shape == (1, 3, tiny_text.WIDTH)
    assert len(tower.model.config.id2label) == 2


def test_weights_are_mapped_and_none_is_left_at_random(tmp_path):
    model, tokenizer = saved(made("GemmaModel"), tmp_path)
    tower = read_tower(model, tokenizer)
    assert not any(t.is_meta for t in (*tower.model.parameters(), *tower.model.buffers()))
    assert not any(p.requires_grad for p in tower.model.parameters())
    assert all(p.is_meta for p in blank("GemmaModel", tower.model.config.to_dict()).parameters())


def test_a_copy_shares_the_weights_alone():
    tower = made("CLIPTextModel")
    copy = tower.copied()
    for one, other in zip(tower.model.parameters(), copy.model.parameters(), strict=True):
        assert one is other
    copy.tokenizer.add_tokens("<new>")
    assert len(copy.tokenizer) == len(tower.tokenizer) + 1
    assert copy.model is not tower.model
    with pytest.raises(InputError, match="no final norm"):
        made("BertModel")(torch.tensor([[2, 3]]), skip=1)


def test_transformers_is_imported_on_first_use_and_asked_for_by_name(monkeypatch):
    code = "import sys, sfumato.conditioning; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "sfumato\[text\]"'):
        blank("BertModel", {})
