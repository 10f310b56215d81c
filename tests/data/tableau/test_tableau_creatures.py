"""Creatures: an identity that every picture of them keeps, and landmarks that lie where the features are painted."""

import math
from dataclasses import replace

import pytest
import torch

import sfumato as sf
from sfumato import data
from sfumato.data.tableau.creatures import (
    LANDMARKS,
    TRAITS,
    TableauCreatures,
    identities,
    paint_creatures,
    recognise,
    sample_creatures,
    silhouette,
)
from sfumato.data.tableau.paint import paint


@pytest.fixture(scope="module")
def made():
    return sample_creatures(range(40))


def test_landmarks_are_where_the_features_are_painted(made):
    """Under each eye's landmark is the iris, of one colour; under the nose's is black; the mouth ends at its."""
    x = paint_creatures(made, 256)
    at = made.landmarks() * 256
    under = torch.stack([_pixel(x, at[:, k]) for k in range(5)], 1)
    torch.testing.assert_close(under[:, 0], under[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(under[:, 2], torch.full_like(under[:, 2], -0.9), atol=1e-3, rtol=0)
    dark = torch.nn.functional.max_pool2d((x.amax(1) < -0.5).float(), 3, 1, 1)[:, None]
    middle = at[:, 3:].mean(1, keepdim=True)
    for k in (0, 1):
        corner = at[:, 3 + k]
        outwards = (corner - middle[:, 0]) / (corner - middle[:, 0]).norm(dim=1, keepdim=True)
        assert _pixel(dark, corner).all()
        assert not _pixel(dark, corner + 4 * outwards).any()
    changed = paint_creatures(replace(made, identity=_with(made.identity, "iris", 0.37)), 256)
    assert (_pixel(changed, at[:, 0]) - under[:, 0]).abs().amax(1).gt(0.05).float().mean() > 0.9
    assert len(LANDMARKS) == at.shape[1]


def test_landmarks_follow_the_pose_exactly(made):
    upright = replace(made, turn=torch.zeros(40), yaw=torch.zeros(40))
    eyes = upright.landmarks()
    torch.testing.assert_close(eyes[:, 0, 1], eyes[:, 1, 1])
    assert (eyes[:, 0, 0] < eyes[:, 1, 0]).all()
    torch.testing.assert_close(eyes[:, :2, 0].mean(1), made.x)
    assert (eyes[:, 3:, 1] > eyes[:, :2, 1]).all()
    quarter = replace(upright, turn=torch.full((40,), math.pi / 2)).landmarks()
    centre = torch.stack([made.x, made.y], 1)[:, None]
    turned = (eyes - centre).flip(2) * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(quarter - centre, turned, atol=1e-6, rtol=0)
    aside = replace(upright, yaw=torch.ones(40)).landmarks() - eyes
    torch.testing.assert_close(aside[..., 0], (0.22 * made.radius)[:, None].expand(-1, 5), atol=1e-6, rtol=0)
    assert aside[..., 1].abs().max() < 1e-6


def test_a_creature_moved_by_whole_pixels_is_the_same_picture_and_hides_only_what_is_under_it(made):
    a, b = paint_creatures(made, 64), paint_creatures(replace(made, x=made.x + 2 / 64), 64)
    where = silhouette(made, 64)
    inner = torch.zeros(40, 64, 64, dtype=torch.bool)
    inner[:, 2:-2, 2:-4] = True
    solid = (where > 0.999) & inner
    torch.testing.assert_close(b.roll(-2, 3).movedim(1, 3)[solid], a.movedim(1, 3)[solid], atol=1e-4, rtol=0)
    untouched = where == 0
    ground = paint(made.behind, 64)
    assert torch.equal(a.movedim(1, 3)[untouched], ground.movedim(1, 3)[untouched])
    assert (a - ground).abs().amax(1)[where > 0.999].float().mean() > 0.3


def test_every_trait_is_seen_and_identities_are_told_apart(made):
    base = paint_creatures(made, 64)
    for name, *_ in TRAITS:
        low, high = (paint_creatures(replace(made, identity=_with(made.identity, name, v)), 64) for v in (0.1, 0.7))
        assert (low - high).square().sum((1, 2, 3)).median() > 0.5, name
    assert base.abs().max() <= 1
    who = identities(range(50))
    assert who.min() >= 0
    assert who.max() <= 1
    assert (torch.cdist(who, who) + 9 * torch.eye(50)).min() > 0.4


@pytest.mark.parametrize("side", [32, 64])
def test_a_creature_is_recognised_in_any_pose_even_under_noise(side):
    gallery = identities(range(20))
    poses = sample_creatures(range(500, 560), gallery[torch.arange(60) % 20])
    x = paint_creatures(poses, side)
    x = x + 0.1 * sf.Noise(range(60)).like(x)
    found = recognise(x, poses, gallery)
    assert torch.equal(found, torch.arange(60) % 20)


def test_the_data_set_shows_each_character_again_and_again():
    ds = TableauCreatures(size=60, side=32, characters=7)
    batch = ds.batch(range(60), sf.Noise(range(60)))
    assert torch.equal(batch.cond["character"], torch.arange(60) % 7)
    assert torch.equal(batch.cond["identity"][0], batch.cond["identity"][7])
    assert len(batch.cond["identity"].unique(dim=0)) == 7
    assert len(batch.cond["landmarks"].unique(dim=0)) == 60
    part = ds.batch([33, 4], sf.Noise([0, 1]))
    torch.testing.assert_close(part.x0, batch.x0[[33, 4]], atol=1e-6, rtol=0)
    assert torch.equal(part.cond["landmarks"], batch.cond["landmarks"][[33, 4]])
    assert sf.from_config(sf.to_config(ds), data.Dataset) == ds
    assert ds.fingerprint != TableauCreatures(size=60, side=32, characters=8).fingerprint
    with pytest.raises(sf.InputError, match="characters >= 1"):
        TableauCreatures(characters=0)


def _pixel(x, at):
    """The pixel of each picture that holds the place `at`, [B, 2] in pixels."""
    column, row = at.long().unbind(1)
    return x[torch.arange(len(x)), :, row, column]


def _with(identity, name, value):
    out = identity.clone()
    out[:, [t[0] for t in TRAITS].index(name)] = value
    return out
