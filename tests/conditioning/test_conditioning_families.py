"""Each family's conditions are those of diffusers' own pipelines on the same towers, prompt by prompt."""

import json

import pytest
import tiny_text
import torch

from sfumato import InputError
from sfumato.conditioning import (
    ClipText,
    Family,
    Frame,
    HunyuanText,
    LuminaText,
    PixArtText,
    RefinerText,
    SD3Text,
    TextConditioner,
    Tower,
    XLText,
)
from sfumato.core import from_config, to_config

diffusers = pytest.importorskip("diffusers")

PROMPTS = ["a photo of an Astronaut, (sharp)!", "  the RED cat in a hat "]
AVOID = ["ugly", "blurry dog!!"]
FRAME = Frame(height=96, width=64, original=(200, 100), crop=(3, 5))
CLOSE = {"rtol": 0, "atol": 1e-6}


def bare(kind: str, **parts):
    """Return a pipeline of theirs that has its text parts alone: what `encode_prompt` needs."""
    pipe = object.__new__(getattr(diffusers, kind))
    diffusers.ConfigMixin.register_to_config(pipe, **parts.pop("config", {}))
    for name, value in parts.items():
        object.__setattr__(pipe, name, value)
    return pipe


@pytest.fixture(scope="module")
def clip():
    return Tower(tiny_text.clip_text(), tiny_text.clip_tokenizer())


@pytest.fixture(scope="module")
def clip_l():
    return Tower(tiny_text.clip_text(width=24, projection=24, seed=4), tiny_text.clip_tokenizer())


@pytest.fixture(scope="module")
def clip_g():
    model = tiny_text.clip_text(width=40, act="gelu", projection=40, seed=5)
    return Tower(model, tiny_text.clip_tokenizer(pad="!"))


@pytest.fixture(scope="module")
def t5():
    return Tower(tiny_text.t5(), tiny_text.t5_tokenizer())


def both(conditioner, frame=None):
    """Return our conditions of the prompts and of those to avoid."""
    return conditioner(PROMPTS, frame).cond, conditioner(AVOID, frame, negative=True).cond


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"], ids=["version 1", "version 2"])
def test_stable_diffusion(clip, pad):
    tower = Tower(clip.model, tiny_text.clip_tokenizer(pad=pad))
    pipe = bare("StableDiffusionPipeline", tokenizer=tower.tokenizer, text_encoder=tower.model)
    theirs = pipe.encode_prompt(PROMPTS, "cpu", 1, True, AVOID)
    for one, other in zip(theirs, both(TextConditioner(family=ClipText(), towers={"clip": tower})), strict=True):
        assert set(other) == {"context"}
        torch.testing.assert_close(other["context"], one, **CLOSE)


def test_clip_skip(clip):
    """Their own code for it looks for a module that their library no longer has; this is what it does."""
    ids = clip.tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    states = clip.model(ids, output_hidden_states=True).hidden_states
    for skip in (1, 2):
        ours = TextConditioner(family=ClipText(skip=skip), towers={"clip": clip})(PROMPTS).cond["context"]
        torch.testing.assert_close(ours, clip.model.final_layer_norm(states[-1 - skip]), **CLOSE)
    with pytest.raises(InputError, match="3 layers"):
        TextConditioner(family=ClipText(skip=3), towers={"clip": clip})(PROMPTS)


def xl(first, second):
    tokenizers = {"tokenizer": first and first.tokenizer, "tokenizer_2": second.tokenizer}
    config = {"force_zeros_for_empty_prompt": True}
    return {**tokenizers, "text_encoder": first and first.model, "text_encoder_2": second.model, "config": config}


def test_xl(clip, clip_g):
    pipe = bare("StableDiffusionXLPipeline", **xl(clip, clip_g))
    ours = TextConditioner(family=XLText(), towers={"clip_l": clip, "clip_g": clip_g})
    theirs = pipe.encode_prompt(PROMPTS, device="cpu", negative_prompt=AVOID)
    for at, cond in enumerate(both(ours, FRAME)):
        torch.testing.assert_close(cond["context"], theirs[at], **CLOSE)
        torch.testing.assert_close(cond["pooled"], theirs[2 + at], **CLOSE)
    assert ours(PROMPTS, FRAME).cond["sizes"].tolist() == [[200, 100, 3, 5, 96, 64]] * 2
    assert ours(["a"], Frame(height=8, width=16)).cond["sizes"].tolist() == [[8, 16, 0, 0, 8, 16]]
    skipped = TextConditioner(family=XLText(skip=1), towers=ours.towers)(PROMPTS, FRAME).cond
    theirs = pipe.encode_prompt(PROMPTS, device="cpu", clip_skip=1)
    torch.testing.assert_close(skipped["context"], theirs[0], **CLOSE)
    torch.testing.assert_close(skipped["pooled"], theirs[2], **CLOSE)
    with pytest.raises(InputError, match="Frame"):
        ours(PROMPTS)


def test_no_prompt_of_xl_is_zeros_and_an_empty_one_is_not(clip, clip_g):
    pipe = bare("StableDiffusionXLPipeline", **xl(clip, clip_g))
    ours = TextConditioner(family=XLText(), towers={"clip_l": clip, "clip_g": clip_g})
    for negative, prompts in ((None, [None, None]), ("", ["", ""])):
        theirs = pipe.encode_prompt(PROMPTS, device="cpu", negative_prompt=negative)
        cond = ours(prompts, FRAME, negative=True).cond
        torch.testing.assert_close(cond["context"], theirs[1], **CLOSE)
        torch.testing.assert_close(cond["pooled"], theirs[3], **CLOSE)
        assert bool((cond["context"] == 0).all()) == (negative is None)
    encoded = TextConditioner(family=XLText(zeros=False), towers=ours.towers)([None], FRAME).cond
    assert torch.equal(encoded["context"], ours([""], FRAME).cond["context"])


def test_refiner(clip_g):
    pipe = bare("StableDiffusionXLImg2ImgPipeline", **xl(None, clip_g))
    ours = TextConditioner(family=RefinerText(), towers={"clip_g": clip_g})
    theirs = pipe.encode_prompt(PROMPTS, device="cpu", negative_prompt=AVOID)
    for at, cond in enumerate(both(ours, FRAME)):
        torch.testing.assert_close(cond["context"], theirs[at], **CLOSE)
        torch.testing.assert_close(cond["pooled"], theirs[2 + at], **CLOSE)
        assert cond["sizes"].tolist() == [[200, 100, 3, 5, (6.0, 2.5)[at]]] * 2


def test_sd3(clip_l, clip_g, t5):
    wide = Tower(tiny_text.t5(width=72, seed=6), t5.tokenizer)
    family = SD3Text(length=20, width=72, pooled=(24, 40))
    towers = {"clip_l": clip_l, "clip_g": clip_g, "t5": wide}
    parts = {
        "tokenizer": clip_l.tokenizer,
        "tokenizer_2": clip_g.tokenizer,
        "tokenizer_3": wide.tokenizer,
        "text_encoder": clip_l.model,
        "text_encoder_2": clip_g.model,
        "tokenizer_max_length": 77,
    }
    config = type("", (), {"joint_attention_dim": 72})
    parts["transformer"] = type("", (), {"config": config, "dtype": torch.float32})
    for t5_model, left in ((wide.model, towers), (None, {k: v for k, v in towers.items() if k != "t5"})):
        pipe = bare("StableDiffusion3Pipeline", text_encoder_3=t5_model, **parts)
        prompts = {f"{n}prompt{i}": p for n, p in (("", PROMPTS), ("negative_", AVOID)) for i in ("", "_2", "_3")}
        theirs = pipe.encode_prompt(**prompts, device="cpu", max_sequence_length=20)
        for at, cond in enumerate(both(TextConditioner(family=family, towers=left))):
            torch.testing.assert_close(cond["context"], theirs[at], **CLOSE)
            torch.testing.assert_close(cond["pooled"], theirs[2 + at], **CLOSE)


def test_sd3_without_a_tower_has_zeros_in_its_place(clip_l, clip_g):
    family = SD3Text(length=20, width=72, pooled=(24, 40))
    whole = TextConditioner(family=family, towers={"clip_l": clip_l, "clip_g": clip_g})(PROMPTS).cond
    part = TextConditioner(family=family, towers={"clip_g": clip_g})(PROMPTS).cond
    assert torch.equal(part["context"][..., 24:], whole["context"][..., 24:])
    assert torch.equal(part["pooled"][:, 24:], whole["pooled"][:, 24:])
    assert part["context"].shape == (2, 97, 72)
    assert not part["context"][..., :24].any()
    assert not part["pooled"][:, :24].any()
    with pytest.raises(InputError, match="another model"):
        TextConditioner(family=family, towers={"clip_l": clip_g})(PROMPTS)


@pytest.mark.parametrize(("kind", "length"), [("PixArtAlphaPipeline", 120), ("PixArtSigmaPipeline", 300)])
def test_pixart(t5, kind, length):
    pipe = bare(kind, tokenizer=t5.tokenizer, text_encoder=t5.model)
    ours = TextConditioner(family=PixArtText(length=length), towers={"t5": t5})
    theirs = pipe.encode_prompt(PROMPTS, negative_prompt=AVOID, device="cpu", max_sequence_length=length)
    for at, cond in enumerate(both(ours)):
        torch.testing.assert_close(cond["context"], theirs[2 * at], **CLOSE)
        assert torch.equal(cond["context_mask"], theirs[2 * at + 1])


def test_hunyuan():
    towers = {
        "bert": Tower(tiny_text.bert(), tiny_text.bert_tokenizer()),
        "t5": Tower(tiny_text.t5(multilingual=True, width=48), tiny_text.t5_tokenizer()),
    }
    pipe = bare(
        "HunyuanDiTPipeline",
        tokenizer=towers["bert"].tokenizer,
        tokenizer_2=towers["t5"].tokenizer,
        text_encoder=towers["bert"].model,
        text_encoder_2=towers["t5"].model,
    )
    ours = both(TextConditioner(family=HunyuanText(), towers=towers), Frame(height=96, width=64, crop=(3, 5)))
    for index, key in enumerate(("context", "context_2")):
        theirs = pipe.encode_prompt(PROMPTS, negative_prompt=AVOID, device="cpu", text_encoder_index=index)
        for at, cond in enumerate(ours):
            torch.testing.assert_close(cond[key], theirs[at], **CLOSE)
            assert torch.equal(cond[f"{key}_mask"], theirs[2 + at])
    assert ours[0]["sizes"].tolist() == [[1024, 1024, 96, 64, 3, 5]] * 2
    assert "sizes" not in TextConditioner(family=HunyuanText(sizes=False), towers=towers)(PROMPTS).cond


def test_lumina():
    tower = Tower(tiny_text.gemma(), tiny_text.gemma_tokenizer())
    pipe = bare("LuminaPipeline", tokenizer=tower.tokenizer, text_encoder=tower.model, max_sequence_length=256)
    prompts, masks, avoided, avoided_masks = pipe.encode_prompt(PROMPTS, negative_prompt=AVOID, device="cpu")
    ours, avoid = both(TextConditioner(family=LuminaText(), towers={"gemma": tower}))
    assert torch.equal(ours["context_mask"], masks)
    assert 0 < int(masks[1].sum()) < masks.shape[1]
    seen = masks.bool()
    torch.testing.assert_close(ours["context"][seen], prompts[seen], **CLOSE)
    # theirs fills what to avoid up to the length of the prompts, ours to its own: the tokens are the same, their
    # rotary places are not, so that only the rounding differs
    one, other = avoid["context"][avoid["context_mask"].bool()], avoided[avoided_masks.bool()]
    assert float((one - other).norm() / other.norm()) < 2e-6
    filled = TextConditioner(family=LuminaText(), towers={"gemma": tower})([*PROMPTS, *AVOID]).cond["context"]
    torch.testing.assert_close(filled[2:][avoided_masks.bool()], other, **CLOSE)


FAMILIES = [
    ClipText(skip=1),
    XLText(zeros=False, chunks=2),
    RefinerText(),
    SD3Text(length=512, pooled=(24, 40)),
    PixArtText(length=300),
    HunyuanText(sizes=False),
    LuminaText(),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_a_family_is_a_configuration(family):
    assert from_config(json.loads(json.dumps(to_config(family)))) == family
    assert isinstance(family, Family)
