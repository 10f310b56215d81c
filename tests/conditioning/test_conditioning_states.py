"""Weights, chunks and what is left out: against the rules written out by hand."""

import pytest
import tiny_text
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato import InputError
from sfumato.conditioning import (
    ClipText,
    Encoded,
    Frame,
    LuminaText,
    PixArtText,
    TextConditioner,
    Tower,
    Weighted,
    XLText,
    matched,
)
from sfumato.conditioning.states import weighted
from sfumato.conditioning.tokens import Token, chunked

FRAME = Frame(height=8, width=8)


@pytest.fixture(scope="module")
def clip():
    return Tower(tiny_text.clip_text(), tiny_text.clip_tokenizer())


@pytest.fixture(scope="module")
def plain(clip):
    return TextConditioner(family=ClipText(), towers={"clip": clip})


@pytest.fixture(scope="module")
def read(clip):
    return TextConditioner(family=ClipText(), towers={"clip": clip}, syntax=Weighted())


def context(conditioner, *prompts):
    return conditioner(prompts).cond["context"]


def test_weights_of_one_change_no_bit(plain, read):
    text = "a photo of a red cat"
    for same in (text, "a photo of a (red:1.0) cat", "(a photo:1) of [(a red)] cat"):
        assert torch.equal(context(read, same), context(plain, text))
    both = context(read, text, "a (cat:2)")
    assert torch.equal(both[0], context(plain, text, "a cat")[0])


def test_weights_multiply_the_states_and_the_mean_is_kept(plain, read):
    z = context(plain, "a photo of a cat")[0].double()
    w = torch.ones(77, dtype=torch.float64)
    w[5] = 1.3  # the start token, a, photo, of, a, cat
    expected = z * w[:, None] * (z.mean() / (z * w[:, None]).mean())
    found = context(read, "a photo of a (cat:1.3)")[0]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.mean(), z.mean().float(), rtol=0, atol=1e-6)
    assert not torch.allclose(found, z.float(), atol=1e-3)


@given(st.lists(st.floats(0.1, 3), min_size=4, max_size=4), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_the_mean_of_what_is_seen_is_kept(weights, seed):
    z = 1 + 0.1 * torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([[1, 1, 1, 0]])
    found = weighted(z, torch.tensor([weights]), mask)
    torch.testing.assert_close(found[:, :3].mean(), z[:, :3].mean(), rtol=1e-5, atol=0)


def test_weights_that_cancel_the_mean_are_refused():
    z = torch.tensor([[[1.0], [1.0]]])
    with pytest.raises(InputError, match="cancel the mean"):
        weighted(z, torch.tensor([[1.0, -1.0]]), torch.ones(1, 2))


def test_a_row_does_not_depend_on_those_beside_it(read):
    prompts = ["a (cat:1.4)", "the [dog]", "a hat"]
    whole = context(read, *prompts)
    for row, prompt in zip(whole, prompts, strict=True):
        torch.testing.assert_close(row, context(read, prompt)[0], rtol=0, atol=1e-6)
    again = context(read, "a hat", "a (cat:1.4)", "a hat")
    assert torch.equal(again, context(read, "a hat", "a (cat:1.4)")[[0, 1, 0]])


def ids_of(clip, words):
    return clip.tokenizer(" ".join(words), padding="max_length", return_tensors="pt").input_ids


def test_long_prompts_are_chunks_of_75_after_each_other(clip, plain):
    words = [tiny_text.WORDS[i % 14] for i in range(160)]
    given = plain([" ".join(words)])
    expected = [clip.model(ids_of(clip, words[i : i + 75])).last_hidden_state[0] for i in (0, 75, 150)]
    torch.testing.assert_close(given.cond["context"][0], torch.cat(expected), rtol=0, atol=1e-6)
    assert given.notes == ()
    assert context(plain, " ".join(words[:75])).shape[1] == 77
    assert context(plain, " ".join(words[:76])).shape[1] == 154


def test_break_starts_a_chunk(clip, read):
    found = context(read, "a cat BREAK a dog")[0]
    expected = [clip.model(ids_of(clip, words)).last_hidden_state[0] for words in (["a", "cat"], ["a", "dog"])]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-6)


def test_rows_of_different_length_are_masked(read):
    cond = read(["a cat BREAK a dog", "a hat"]).cond
    assert cond["context"].shape == (2, 154, tiny_text.WIDTH)
    assert cond["context_mask"].tolist() == [[1] * 154, [1] * 77 + [0] * 77]
    torch.testing.assert_close(cond["context"][1, :77], context(read, "a hat")[0], rtol=0, atol=1e-6)
    assert not cond["context"][1, 77:].any()


def test_what_is_left_out_is_said(clip):
    short = TextConditioner(family=ClipText(chunks=1), towers={"clip": clip})
    words = ["cat"] * 75 + ["red", "hat"]
    given = short([" ".join(words)])
    theirs = clip.tokenizer(" ".join(words), padding="max_length", truncation=True, return_tensors="pt").input_ids
    torch.testing.assert_close(given.cond["context"], clip.model(theirs).last_hidden_state, rtol=0, atol=1e-6)
    (note,) = given.notes
    assert "2: 'red hat'" in note
    t5 = Tower(tiny_text.t5(), tiny_text.t5_tokenizer())
    (note,) = TextConditioner(family=PixArtText(length=4), towers={"t5": t5})(["a photo of the cat"]).notes
    assert "first 3 tokens" in note
    assert "'of the cat'" in note


def test_masked_encoders_are_weighted_where_they_are_seen():
    t5 = Tower(tiny_text.t5(), tiny_text.t5_tokenizer())
    one, other = (
        TextConditioner(family=PixArtText(), towers={"t5": t5}, syntax=syntax) for syntax in (Weighted(), Weighted())
    )
    z, found = (c(["a Photo of cat" if c is one else "a (Photo:1.5) of cat"]).cond for c in (one, other))
    seen = z["context_mask"].bool()
    assert torch.equal(found["context_mask"], z["context_mask"])
    torch.testing.assert_close(found["context"][seen].mean(), z["context"][seen].mean(), rtol=1e-4, atol=1e-6)
    ratio = (found["context"][seen] / z["context"][seen]).median(dim=1).values
    assert float(ratio[2] / ratio[0]) == pytest.approx(1.5, rel=1e-4)


def test_the_pooled_vector_of_a_long_prompt_is_its_first_chunks(clip):
    towers = {"clip_l": clip, "clip_g": Tower(tiny_text.clip_text(projection=24, seed=5), tiny_text.clip_tokenizer())}
    xl = TextConditioner(family=XLText(), towers=towers, syntax=Weighted())
    cond = xl(["a cat BREAK a dog", "a hat", "a BREAK b BREAK c"], FRAME).cond
    assert cond["context"].shape[1] == 231
    for row, prompt in enumerate(["a cat", "a hat", "a"]):
        torch.testing.assert_close(cond["pooled"][row], xl([prompt], FRAME).cond["pooled"][0], rtol=0, atol=1e-6)


def test_towers_that_cut_differently_get_as_many_chunks(clip):
    """A tokenizer that fills up with "!" reads each "!" by itself."""
    model = tiny_text.clip_text(projection=24, seed=5)
    towers = {"clip_l": clip, "clip_g": Tower(model, tiny_text.clip_tokenizer(pad="!"))}
    xl = TextConditioner(family=XLText(), towers=towers)
    text = " ".join(["cat! a"] * 25 + ["b"])
    counts = [len(tower.tokens(text)) for tower in towers.values()]
    assert xl([text], FRAME).cond["context"].shape == (1, 154, 32 + 32)
    assert min(counts) > 75


def test_chunks():
    a, b = tuple(Token(i) for i in range(7)), (Token(9, 2.0),)
    assert [len(p) for p in chunked([a, b], 3, 9).parts] == [3, 3, 1, 1]
    assert chunked([a, b], 3, 2) == ((a[:3], a[3:6]), (a[6], *b))
    assert chunked([()], 3, 9).parts == ((),)
    assert chunked([a[:3], ()], 3, 9).parts == (a[:3],)
    assert chunked([(), b], 3, 9).parts == ((), b)


def test_matched_gives_one_length_and_changes_no_row():
    long = Encoded({"context": torch.ones(1, 5, 2), "pooled": torch.ones(1, 3)})
    short = Encoded({"context": torch.ones(2, 3, 2), "pooled": torch.ones(2, 3)}, ("a note",))
    one, other = matched(long, short)
    assert one.cond["context_mask"].tolist() == [[1] * 5]
    assert other.cond["context_mask"].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert other.cond["context"][:, 3:].abs().sum() == 0
    assert torch.equal(other.cond["context"][:, :3], short.cond["context"])
    assert other.notes == ("a note",)
    assert set(short.cond) == {"context", "pooled"}
    same = matched(long, long)
    assert set(same[0].cond) == {"context", "pooled"}
    masked = Encoded(long.cond | {"context_mask": torch.tensor([[0, 1, 1, 1, 1]])})
    again = matched(masked, long)
    assert [e.cond["context_mask"].tolist() for e in again] == [[[0, 1, 1, 1, 1]], [[1] * 5]]
    with pytest.raises(InputError, match="same keys"):
        matched(long, Encoded({"context": torch.ones(1, 5, 2)}))
    with pytest.raises(InputError, match="one width"):
        matched(long, Encoded({"context": torch.ones(1, 5, 3), "pooled": torch.ones(1, 3)}))


def test_a_network_gives_matched_rows_what_it_gives_them_alone(read):
    from sfumato.nets.latent_unet import LatentUNetConfig

    shape = {"widths": (8, 16), "transformers": (1, 0), "heads": (2, 2), "groups": 4, "layers": 1}
    net = LatentUNetConfig(context=tiny_text.WIDTH, **shape).build().eval()
    tiny_text.scrambled(net, 0)
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    long, short = read(["a cat BREAK a dog"]), read(["a hat"])
    for alone, padded in zip((long, short), matched(long, short), strict=True):
        torch.testing.assert_close(net(x, t, **padded.cond), net(x, t, **alone.cond), rtol=0, atol=1e-5)


def test_towers_that_are_not_a_familys_are_refused(clip):
    with pytest.raises(InputError, match="needs the tower gemma"):
        TextConditioner(family=LuminaText(), towers={})
    with pytest.raises(InputError, match="has no tower 'clip'"):
        TextConditioner(family=LuminaText(), towers={"clip": clip})
    conditioner = TextConditioner(family=ClipText(), towers={"clip": clip})
    for prompts, match in (([3], "in words"), ([], "no prompts")):
        with pytest.raises(InputError, match=match):
            conditioner(prompts)
    assert torch.equal(context(conditioner, None), context(conditioner, ""))
