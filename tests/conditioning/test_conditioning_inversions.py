"""Learned words: read from every form of file, and equal to diffusers' with the same vectors."""

import pytest
import tiny_text
import torch
from safetensors.torch import save_file

from sfumato import InputError
from sfumato.conditioning import (
    Classes,
    ClipText,
    Frame,
    Inversion,
    LuminaText,
    TextConditioner,
    Tower,
    XLText,
    read_inversion,
    with_inversions,
)
from sfumato.conditioning.tower_files import read_tower, write_tower
from sfumato.core.errors import CheckpointError

WIDTH = tiny_text.WIDTH


def drawn(count, width=WIDTH, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def clip():
    return TextConditioner(family=ClipText(), towers={"clip": Tower(tiny_text.clip_text(), tiny_text.clip_tokenizer())})


def xl():
    second = tiny_text.clip_text(width=40, projection=24, seed=5)
    towers = {
        "clip_l": Tower(tiny_text.clip_text(), tiny_text.clip_tokenizer()),
        "clip_g": Tower(second, tiny_text.clip_tokenizer(pad="!")),
    }
    return TextConditioner(family=XLText(), towers=towers)


def test_the_forms_of_files(tmp_path):
    def read(tensors, token=None):
        save_file(tensors, tmp_path / "my-style.safetensors")
        return read_inversion(tmp_path / "my-style.safetensors", token)

    one, two = drawn(2), drawn(2, 40)
    for found, token, names in (
        (read({"emb_params": one}), "my-style", [""]),
        (read({"clip_l": one, "clip_g": two}), "my-style", ["clip_l", "clip_g"]),
        (read({"<hat>": one[0]}), "<hat>", [""]),
        (read({"<hat>": one}, "other"), "other", [""]),
    ):
        assert found.token == token
        assert set(found.vectors) == set(names)
        assert all(v.ndim == 2 for v in found.vectors.values())
    with pytest.raises(InputError, match="no learned word"):
        read({"a": one, "b": two})
    with pytest.raises(CheckpointError, match="'clip_g' has numbers that are not finite"):
        read({"clip_l": one, "clip_g": two * torch.nan})
    with pytest.raises(CheckpointError, match=r"'<hat>' has numbers of torch\.int64"):
        read({"<hat>": torch.ones(2, WIDTH, dtype=torch.int64)})
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_inversion(tmp_path / "damaged.safetensors")
    with pytest.raises(InputError, match="pickles are never read"):
        read_inversion(tmp_path / "word.pt")


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_is_its_vectors(clip, count):
    """The states are those of the model on the embeddings themselves."""
    vectors = drawn(count)
    found = with_inversions(clip, [Inversion("<hat>", {"": vectors})])
    tower = clip.towers["clip"]
    ids = tower.tokenizer("a cat in red").input_ids
    rows = tower.model.get_input_embeddings().weight[ids]
    rows = torch.cat((rows[:2], vectors, rows[2:]))  # the start token, a, <hat>, cat, in, red, the end token
    pad = tower.model.get_input_embeddings().weight[[tower.pad]].expand(77 - len(rows), -1)
    embeddings = tower.model.embeddings
    state = torch.cat((rows, pad))[None] + embeddings.position_embedding.weight
    mask = torch.full((77, 77), -torch.inf).triu(1)[None, None]
    for layer in tower.model.encoder.layers:
        state = layer(state, attention_mask=mask)
        state = state[0] if isinstance(state, tuple) else state
    expected = tower.model.final_layer_norm(state)
    torch.testing.assert_close(found(["a <hat> cat in red"]).cond["context"], expected, rtol=0, atol=1e-5)
    assert torch.equal(found(["a cat"]).cond["context"], clip(["a cat"]).cond["context"])
    assert not torch.equal(found(["<hat>"]).cond["context"], clip(["<hat>"]).cond["context"])


@pytest.mark.parametrize("count", [1, 2])
def test_equal_to_diffusers(clip, count):
    diffusers = pytest.importorskip("diffusers")
    tokenizer = tiny_text.clip_tokenizer()
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1),
        unet=diffusers.UNet2DConditionModel(
            block_out_channels=(8, 8), cross_attention_dim=WIDTH, norm_num_groups=4, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        text_encoder=tiny_text.clip_text(),
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    vectors = drawn(count)
    pipe.load_textual_inversion({"<hat>": vectors if count > 1 else vectors[0]})
    prompts = ["a photo of a <hat>, red", "<hat> in the <hat> style"]
    theirs = pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    found = with_inversions(clip, [Inversion("<hat>", {"": vectors})])
    torch.testing.assert_close(found(prompts).cond["context"], theirs, rtol=0, atol=1e-6)


def test_two_towers_and_two_words():
    conditioner = xl()
    words = [
        Inversion("<hat>", {"clip_l": drawn(2), "clip_g": drawn(2, 40)}),
        Inversion("<cat>", {"clip_l": drawn(1, seed=1), "clip_g": drawn(1, 40, seed=1)}),
    ]
    frame = Frame(height=8, width=8)
    both = with_inversions(conditioner, words)
    for word in words:
        alone = with_inversions(conditioner, [word])
        for key, value in both([f"a {word.token}"], frame).cond.items():
            torch.testing.assert_close(alone([f"a {word.token}"], frame).cond[key], value, rtol=0, atol=1e-6)
    plain, known = conditioner(["a cat"], frame).cond, both(["a cat"], frame).cond
    assert all(torch.equal(plain[key], known[key]) for key in plain)


def test_the_pooled_vector_stays_that_of_the_end_token():
    """Ids of learned words are larger than the end token's, which the rule of the largest id would take."""
    conditioner = xl()
    found = with_inversions(conditioner, [Inversion("<hat>", {"clip_l": drawn(1), "clip_g": drawn(1, 40)})])
    tower = found.towers["clip_g"]
    ids = tower.tokenizer(["a <hat> cat"], padding="max_length", return_tensors="pt").input_ids
    assert int(ids.argmax()) == 2
    end = tower.model.text_projection(tower(ids).tokens[:, 4])
    torch.testing.assert_close(found(["a <hat> cat"], Frame(height=8, width=8)).cond["pooled"], end, rtol=0, atol=1e-5)


def test_weights_are_shared_and_the_given_tower_is_unchanged(clip):
    before = len(clip.towers["clip"].tokenizer)
    found = with_inversions(clip, [Inversion("<hat>", {"": drawn(2)})]).towers["clip"]
    pairs = zip(found.model.named_parameters(), clip.towers["clip"].model.named_parameters(), strict=True)
    assert [n for (n, a), (_, b) in pairs if a is not b] == ["embeddings.token_embedding.weight"]
    assert len(clip.towers["clip"].tokenizer) == before
    assert clip.towers["clip"].model.config.vocab_size == before == found.model.config.vocab_size - 2


@pytest.mark.parametrize(
    ("word", "match"),
    [
        (Inversion("<hat>", {"": drawn(1, 8)}), "8 wide, this text encoder 32"),
        (Inversion("cat", {"": drawn(1)}), "a word of this text encoder already"),
        (Inversion("<|endoftext|>", {"": drawn(1)}), "already"),
        (Inversion("a b", {"": drawn(1)}), "without spaces"),
        (Inversion("<hat>", {"": drawn(76)}), "76 vectors"),
        (Inversion("<hat>", {"clip_g": drawn(1)}), "no vectors for clip"),
    ],
)
def test_what_does_not_fit_is_refused(clip, word, match):
    with pytest.raises(InputError, match=match):
        with_inversions(clip, [word])


def test_a_word_is_added_once_and_to_clip_alone(clip):
    word = Inversion("<hat>", {"": drawn(2)})
    known = with_inversions(clip, [word])
    with pytest.raises(InputError, match="already"):
        with_inversions(known, [word])
    gemma = Tower(tiny_text.gemma(), tiny_text.gemma_tokenizer())
    with pytest.raises(InputError, match="has none"):
        with_inversions(Classes(names=("cat",)), [word])
    with pytest.raises(InputError, match="has none"):
        with_inversions(TextConditioner(family=LuminaText(), towers={"gemma": gemma}), [word])


def test_a_word_of_unequal_lengths_in_two_towers_is_refused():
    """They are read side by side: after it, the states of one prompt would be of different words."""
    word = Inversion("<hat>", {"clip_l": drawn(2), "clip_g": drawn(3, 40)})
    with pytest.raises(InputError, match="2 vectors for clip_l and 3 for clip_g"):
        with_inversions(xl(), [word])


@pytest.mark.parametrize("form", ["ours", "diffusers"])
def test_a_word_of_several_vectors_comes_back_with_its_pipeline(form, tmp_path):
    conditioner = TextConditioner(
        family=ClipText(), towers={"clip": Tower(tiny_text.clip_text(), tiny_text.clip_tokenizer())}
    )
    words = [Inversion("zorb", {"": drawn(3)}), Inversion("blik", {"": drawn(1)})]
    told = with_inversions(conditioner, words)
    tower = told.towers["clip"]
    if form == "ours":
        told.save(tmp_path)
        again = told.config.load(tmp_path).towers["clip"]
    else:
        write_tower(tower, tmp_path / "text_encoder", tmp_path / "tokenizer")
        again = read_tower(tmp_path / "text_encoder", tmp_path / "tokenizer")
    assert len(again.tokens("zorb blik cat")) == 3 + 1 + 1
    assert again.tokens("zorb blik cat") == tower.tokens("zorb blik cat")
