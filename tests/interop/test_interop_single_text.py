"""Text encoders in one file, both ways, bit for bit against diffusers' converter."""

import pytest
import tiny_text
import torch

from sfumato.conditioning import ClipText, published
from sfumato.conditioning.tower import Tower
from sfumato.conditioning.tower_files import blank, tower_of
from sfumato.core.errors import CheckpointError
from sfumato.interop.diffusers.shortened import shortened
from sfumato.interop.single.text import PARTS, read_tower, write_tower


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def open_clip_file(prefix, *, width=32, layers=3, projection=40, vocab=554):
    """Return a file of OpenCLIP's text encoder, written out by hand."""
    shapes = {
        "positional_embedding": (77, width),
        "token_embedding.weight": (vocab, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, projection),
        "logit_scale": (),
    }
    for i in range(layers):
        block = {
            "ln_1.weight": (width,),
            "ln_1.bias": (width,),
            "ln_2.weight": (width,),
            "ln_2.bias": (width,),
            "attn.in_proj_weight": (3 * width, width),
            "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width),
            "attn.out_proj.bias": (width,),
            "mlp.c_fc.weight": (2 * width, width),
            "mlp.c_fc.bias": (2 * width,),
            "mlp.c_proj.weight": (width, 2 * width),
            "mlp.c_proj.bias": (width,),
        }
        shapes |= {f"transformer.resblocks.{i}.{name}": shape for name, shape in block.items()}
    return {prefix + name: drawn(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("projection", [32, 40])
@pytest.mark.parametrize("family", ["xl", "refiner", "sd2"])
def test_open_clip_is_diffusers_conversion(family, projection):
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    name = "clip" if family == "sd2" else "clip_g"
    part = PARTS[family][name]
    file = open_clip_file(part.prefix, projection=projection, layers=24 if family == "sd2" else 3)
    tokenizer = tiny_text.clip_tokenizer(pad="!")
    tower, used = read_tower(file | {"other": torch.ones(1)}, part, tokenizer, path="file", heads=4)
    back = write_tower(tower, part)
    assert used == set(back) == set(file) - {part.prefix + "logit_scale"}
    assert all(torch.equal(back[key], file[key]) for key in back)
    # diffusers leaves out the last layer of version 2 and its projection, which nobody reads
    less = shortened(tower, ClipText(skip=1)) if family == "sd2" else tower
    theirs = utils.convert_open_clip_checkpoint(less.model, file, prefix=part.prefix)
    assert less.model.config.num_hidden_layers == (23 if family == "sd2" else 3)
    assert len(less.model.state_dict()) == len(theirs)
    for key, value in less.model.state_dict().items():
        full = key if key.startswith("text_") else "text_model." + key
        assert torch.equal(value, theirs[full]), key
    ids = torch.tensor([tokenizer("a photo of a cat").input_ids]) % 85
    if family == "sd2":  # the states before the last layer, after the final norm
        assert torch.equal(tower(ids, skip=1).tokens, less(ids).tokens)


def test_reading_shares_the_files_memory():
    part = PARTS["xl"]["clip_g"]
    file = open_clip_file(part.prefix)
    tower, _ = read_tower(file, part, tiny_text.clip_tokenizer(), path="file", heads=4)
    held = {t.untyped_storage().data_ptr() for t in file.values()}
    assert all(p.untyped_storage().data_ptr() in held for p in tower.model.parameters())


@pytest.mark.parametrize("family", ["sd1", "xl", "sd3"])
def test_ported_names(family):
    """CLIP-L with the prefix that released files have, and T5."""
    tokenizer = tiny_text.clip_tokenizer()
    models = {
        "clip": tiny_text.clip_text(),
        "clip_l": tiny_text.clip_text(projection=32 if family == "sd3" else None),
        "clip_g": tiny_text.clip_text(projection=24),
        "t5": tiny_text.t5(),
    }
    ids = torch.tensor([tokenizer("a photo of a cat").input_ids]) % 85
    for name, part in PARTS[family].items():
        if "resblocks" in "".join(write_tower(Tower(models[name], None), part)):
            continue
        given = Tower(models[name], tiny_text.t5_tokenizer() if name == "t5" else tokenizer)
        file = write_tower(given, part)
        file[part.prefix + "text_model.embeddings.position_ids"] = torch.arange(77)[None]
        assert all(
            key.startswith((part.prefix + "text_", part.prefix + "encoder.", part.prefix + "shared")) for key in file
        )
        read, _ = read_tower(file, part, given.tokenizer, path="file", heads=4)
        assert set(read.model.state_dict()) == set(given.model.state_dict())
        torch.testing.assert_close(read(ids).tokens, given(ids).tokens, rtol=0, atol=5e-6)
        back = write_tower(read, part)
        assert all(torch.equal(back[key], file[key]) for key in back)


def test_the_projection_of_clip_l_is_the_identity_where_version_3_lacks_it():
    part = PARTS["sd3"]["clip_l"]
    tokenizer = tiny_text.clip_tokenizer()
    file = write_tower(Tower(tiny_text.clip_text(), tokenizer), part)
    tower, used = read_tower(file, part, tokenizer, path="file", heads=4)
    assert torch.equal(tower.model.text_projection.weight, torch.eye(tiny_text.WIDTH))
    assert used == set(file)
    ids = torch.tensor([tokenizer("a cat").input_ids])
    assert torch.equal(tower(ids).pooled, tower(ids).tokens[:, 3])


def test_what_a_file_lacks_or_has_too_many_is_named():
    part = PARTS["xl"]["clip_g"]
    file, tokenizer = open_clip_file(part.prefix), tiny_text.clip_tokenizer()

    def refused(tensors, match):
        with pytest.raises(CheckpointError, match=match):
            read_tower(tensors, part, tokenizer, path="file", heads=4)

    key = part.prefix + "ln_final.bias"
    refused({k: v for k, v in file.items() if k != key}, "lacks conditioner.embedders.1.model.ln_final.bias")
    refused(file | {part.prefix + "adapter": torch.ones(1)}, "adapter")
    refused(file | {key: torch.ones(7)}, r"has the shape \[7\]")
    refused({}, "its text encoder is another")


COUNTS = {
    "clip_l": 123_060_480,
    "open_clip_h": 340_387_840,
    "open_clip_g": 694_659_840,
    "t5_xxl": 4_762_310_656,
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    kind, config = getattr(published, name)()
    named = dict(blank(kind, config).named_parameters())
    named.pop("encoder.embed_tokens.weight", None)
    assert sum(p.numel() for p in named.values()) == COUNTS[name]


def test_a_published_configuration_follows_from_the_shapes():
    """Of XL's second tower, on the meta device."""
    kind, config = published.open_clip_g()
    part = PARTS["xl"]["clip_g"]
    model = blank(kind, config)
    file = write_tower(Tower(model, None), part)
    assert part.config({k: tuple(v.shape) for k, v in file.items()}, part.prefix, None) == (kind, config)
    with pytest.raises(CheckpointError, match="num_hidden_layers=32"):
        tower_of(kind, config, {}, None, path="file")
