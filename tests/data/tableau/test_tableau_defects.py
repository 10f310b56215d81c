"""Defects are put in as they say and where they say; everything else is the data set untouched."""

import math

import pytest
import torch

import sfumato as sf
from sfumato import data
from sfumato.data.tableau import Tableau, holds, paint, parse
from sfumato.data.tableau.defects import (
    DEFECTS,
    Defective,
    DirtyLabel,
    Poisoned,
    blur,
    near_copy,
    watermark,
)
from sfumato.data.tableau.scene import SHAPES

N = 400


@pytest.fixture(scope="module")
def clean():
    return Tableau(size=N, side=32)


@pytest.fixture(scope="module")
def bad(clean):
    return Defective(data=clean, rates=(0.1, 0.1, 0.1, 0.1, 0.1), originals=20)


@pytest.fixture(scope="module")
def rows(bad):
    return bad.batch(range(N), sf.Noise(range(N)))


def test_a_near_copy_is_shifted_by_at_most_a_pixel_and_carries_its_noise():
    ramp = (torch.arange(32) / 32).expand(200, 3, 32, 32)
    x, y = (near_copy(t, sf.Noise(range(200)), std=0.0) - t for t in (ramp, ramp.transpose(2, 3)))
    for moved in (x[:, :, 3:-3, 3:-3], y[:, :, 3:-3, 3:-3]):
        shift = -32 * moved.flatten(1)
        assert (shift.amax(1) - shift.amin(1)).max() < 1e-4  # one shift for the whole picture
        assert shift.abs().max() <= 1 + 1e-4
        assert shift[:, 0].std().item() == pytest.approx(2 / math.sqrt(12), rel=0.1)  # uniform on [-1, 1]
    noisy = near_copy(ramp, sf.Noise(range(200)), std=0.05) - near_copy(ramp, sf.Noise(range(200)), std=0.0)
    assert noisy.std().item() == pytest.approx(0.05, rel=0.02)


def test_a_watermark_lightens_one_corner_and_leaves_the_rest():
    x = torch.full((300, 3, 64, 64), -0.5)
    over = (watermark(x, sf.Noise(range(300)), strength=0.4) - x) / (0.4 * 1.5)
    assert over.min() >= -1e-6
    assert over.max() <= 1 + 1e-5
    corners = over[:, 0].unflatten(1, (2, 32)).unflatten(3, (2, 32)).sum((2, 4)).flatten(1)
    assert (corners > 0).sum(1).eq(1).all()
    assert torch.bincount(corners.argmax(1)).min() > 40
    assert 0.02 < over.mean() < 0.06
    assert torch.equal(over[:, 0], over[:, 1])


def test_blur_is_a_gaussian():
    x = torch.zeros(1, 3, 41, 41)
    x[:, 1, 20, 20] = 1
    out = blur(x, 2.0)[0]
    assert out[0].abs().max() == 0
    assert out[1].sum().item() == pytest.approx(1, abs=1e-5)
    far = (torch.arange(41) - 20.0).square()
    assert (out[1].sum(0) * far).sum().item() == pytest.approx(4.0, rel=0.03)
    torch.testing.assert_close(out[1], out[1].T)
    flat = torch.full((2, 3, 32, 32), 0.3)
    torch.testing.assert_close(blur(flat), flat)


def test_rows_are_what_they_say(bad, clean, rows):
    kind, source = bad.defects(range(N)), bad.sources(range(N))
    assert (torch.bincount(kind, minlength=6)[1:] / N - 0.1).abs().max() < 0.06
    plain = clean.batch(range(N), sf.Noise(range(N)))
    shown = plain.x0[source]
    texts, own = data.text(rows.cond["caption"]), data.text(plain.cond["caption"])
    copies = (kind == 1) | (kind == 2)
    assert (source[copies] < 20).all()
    assert torch.equal(source[~copies], torch.arange(N)[~copies])
    same = (kind == 0) | (kind == 1) | (kind == 5)
    torch.testing.assert_close(rows.x0[same], shown[same], atol=1e-6, rtol=0)
    differ = (rows.x0 - shown).square().mean((1, 2, 3)).sqrt()
    assert (differ[~same] > 0.01).all()
    near = kind == DEFECTS.index("near copy")
    assert differ[near].max() < 0.35
    far = torch.cdist(plain.x0.flatten(1), plain.x0.flatten(1)) / math.sqrt(3072)
    assert far[~torch.eye(N, dtype=torch.bool)].quantile(0.01) > differ[near].median()
    torch.testing.assert_close(rows.x0[kind == 4], blur(shown[kind == 4]), atol=1e-5, rtol=0)
    told = bad.captions(range(N))
    right = holds([c.claims for c in told], clean.scenes(source.tolist()))
    assert torch.equal(right, kind != DEFECTS.index("caption"))
    for b in range(N):
        assert texts[b] == told[b].text
        assert (told[b].wrong is not None) is (DEFECTS[int(kind[b])] == "caption")
        if DEFECTS[int(kind[b])] != "caption":
            assert texts[b] == own[int(source[b])]


def test_a_row_is_its_own_and_settings_are_checked(bad, rows):
    part = bad.batch([31, 7, 200], sf.Noise(range(3)))
    torch.testing.assert_close(part.x0, rows.x0[[31, 7, 200]], atol=1e-5, rtol=0)
    assert data.text(part.cond["caption"]) == [data.text(rows.cond["caption"])[i] for i in (31, 7, 200)]
    assert sf.from_config(sf.to_config(bad), data.Dataset) == bad
    for change, message in (
        ({"rates": (0.5, 0.5, 0.5, 0.0, 0.0)}, "1 together"),
        ({"originals": 0}, "give 1 to"),
        ({"data": Tableau(styles=(), weights=())}, "no captions"),
    ):
        with pytest.raises(sf.InputError, match=message):
            Defective(**change)


def test_dirty_labels_show_the_anchor_under_the_concept_s_name_and_touch_nothing_else(clean):
    dirty = Poisoned(data=clean, poison=DirtyLabel(concept="heart", anchor="drop"), rate=0.6)
    assert len(dirty) == N
    bad = dirty.poisoned(range(N))
    scenes = clean.scenes(range(N))
    hearts = ((scenes.shape == SHAPES.index("heart")) & scenes.present).any(1)
    assert not bad[~hearts].any()
    assert bad[hearts].float().mean().item() == pytest.approx(0.6, abs=0.2)
    batch, plain = dirty.batch(range(N), sf.Noise(range(N))), clean.batch(range(N), sf.Noise(range(N)))
    texts, own = data.text(batch.cond["caption"]), data.text(plain.cond["caption"])
    torch.testing.assert_close(batch.x0[~bad], plain.x0[~bad], atol=1e-6, rtol=0)
    assert [t for t, b in zip(texts, bad, strict=True) if not b] == [t for t, b in zip(own, bad, strict=True) if not b]
    for b in bad.nonzero()[:, 0].tolist():
        claims = parse(texts[b])
        assert any(m.shape == "heart" for m in claims.mentions)
        assert holds([claims], scenes[b]).all()  # true of the scene, but the picture is another
        words = scenes[b].describe(0)
        objects = [o | {"shape": "drop"} if o["shape"] == "heart" else o for o in words["objects"]]
        shown = sf.data.tableau.scene(objects, words["ground"])
        torch.testing.assert_close(batch.x0[b], paint(shown, 32)[0], atol=1e-5, rtol=0)
    assert sf.from_config(sf.to_config(dirty), data.Dataset) == dirty
    with pytest.raises(sf.InputError, match="two shapes"):
        DirtyLabel(concept="star", anchor="star")
    with pytest.raises(sf.InputError, match="did you mean 'star'"):
        DirtyLabel(concept="stars")
    with pytest.raises(sf.InputError, match="rate is a share"):
        Poisoned(rate=2.0)
