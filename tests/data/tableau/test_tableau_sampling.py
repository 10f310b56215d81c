"""The law of the world: what it promises of every scene, its frequencies, and relations against painted masks."""

import math

import pytest
import torch

import sfumato as sf
from sfumato.data.tableau import shapes
from sfumato.data.tableau.paint import visible
from sfumato.data.tableau.relations import CONVERSE, RELATIONS, SLACK, containment, overlaps, relations
from sfumato.data.tableau.sampling import Law, sample_scenes
from sfumato.data.tableau.scene import COLOURS, MAX_OBJECTS, RADII, SHAPES, Scenes, held_out, scene

N = 1500


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(range(N))


@pytest.fixture(scope="module")
def alone(scenes):
    """Each object painted alone, [N, M, 48, 48]."""
    return torch.stack([visible(_only(scenes, j), 48)[:, 0] for j in range(MAX_OBJECTS)], 1)


def test_a_scene_depends_on_its_seed_alone(scenes):
    again = sample_scenes(range(100, 110))
    for name, value in again.arrays().items():
        assert torch.equal(value, scenes.arrays()[name][100:110]), name
    assert not torch.equal(again.x, sample_scenes(range(200, 210)).x)


def test_enough_of_every_object_is_in_the_picture_and_seen(scenes, alone):
    area = shapes.areas()[scenes.shape] * (scenes.radius * 48).square()
    present = scenes.present
    framed = alone.sum((2, 3))[present] / area[present]
    assert framed.min() > 0.90
    seen = visible(scenes, 48).sum((2, 3))[present] / alone.sum((2, 3))[present]
    assert seen.min() > 0.60
    assert (seen < 0.95).float().mean() > 0.05  # and there are overlaps


def test_objects_of_one_colour_do_not_touch(scenes, alone):
    for i in range(MAX_OBJECTS):
        for j in range(i):
            same = (scenes.colour[:, i] == scenes.colour[:, j]) & scenes.present[:, i]
            assert (alone[same, i] * alone[same, j]).sum() == 0
    assert same.any()


def test_beyond_count_everything_is_nought_and_within_it_values_are_in_range(scenes):
    arrays, present = scenes.arrays(), scenes.present
    for name in ("shape", "colour", "size", "texture", "x", "y", "radius", "turn"):
        assert not arrays[name][~present].any(), name
    middle = torch.tensor(RADII)[scenes.size][present]
    assert ((scenes.radius[present] / middle - 1).abs() <= 0.0501).all()
    order = torch.tensor(shapes.SYMMETRY)[scenes.shape][present]
    turn = scenes.turn[present]
    assert (turn[order == 0] == 0).all()
    assert (turn[order > 0] < 2 * math.pi / order[order > 0]).all()
    assert turn[order == 1].max() > 6
    graded, textured = scenes.ground == 1, scenes.ground == 2
    assert ((scenes.ground_colour[:, 0] != scenes.ground_colour[:, 1]) == graded).all()
    assert ((scenes.ground_angle != 0) == graded).all()
    assert ((scenes.ground_seed != 0) == textured).all()


def test_frequencies_are_the_law_s():
    law = Law(counts=(1, 2, 3, 4), textures=(4, 3, 2, 1), grounds=(1, 3, 0), twins=0)
    s = sample_scenes(range(4000), law)
    for drawn, weights in (
        (s.count - 1, law.counts),
        (s.texture[:, 0], law.textures),
        (s.ground, law.grounds),
        (s.shape[:, 0], [1] * len(SHAPES)),
    ):
        share = torch.bincount(drawn, minlength=len(weights)) / 4000
        wanted = torch.tensor(weights, dtype=torch.float32) / sum(weights)
        assert ((share - wanted).abs() <= 4.5 * (wanted * (1 - wanted) / 4000).sqrt()).all()
    single = sample_scenes(range(2000), Law(counts=(1, 0, 0, 0), sizes=(1, 2, 1)))
    assert (single.size[:, 0] == 1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    twins = sample_scenes(range(1000), Law(counts=(0, 1, 0, 0), twins=0.5))
    alike = (twins.shape[:, 0] == twins.shape[:, 1]) & (twins.colour[:, 0] == twins.colour[:, 1])
    assert alike.float().mean().item() == pytest.approx(0.5, abs=0.07)
    assert (twins.texture[alike, 0] == twins.texture[alike, 1]).float().mean() > 0.97


def test_held_out_combinations_are_a_tenth_and_never_trained_on(scenes):
    pairs = torch.cartesian_prod(torch.arange(len(SHAPES)), torch.arange(len(COLOURS)))
    kept = held_out(*pairs.T)
    assert kept.float().mean().item() == pytest.approx(0.1, abs=1e-6)
    assert kept.view(len(SHAPES), -1).sum(1).eq(1).all()
    assert kept.view(len(SHAPES), -1).sum(0).ge(1).all()
    present = scenes.present
    assert not held_out(scenes.shape, scenes.colour)[present].any()
    test = sample_scenes(range(300), Law(common=False, held_out=True))
    assert held_out(test.shape, test.colour)[test.present].all()
    both = sample_scenes(range(600), Law(held_out=True))
    assert 0 < held_out(both.shape, both.colour)[both.present].float().mean() < 0.3


def test_a_law_that_cannot_be_is_refused():
    with pytest.raises(sf.InputError, match="sizes are weights"):
        Law(sizes=(0, 0, 0))
    with pytest.raises(sf.InputError, match="counts are weights"):
        Law(counts=(1, -1, 0, 0))
    with pytest.raises(sf.InputError, match="no combination"):
        Law(common=False)
    with pytest.raises(sf.InputError, match="twins"):
        Law(twins=1.5)
    law = Law(counts=(1, 0, 0, 1), twins=0.5)
    assert sf.from_config(sf.to_config(law)) == law


def test_axis_relations_are_what_the_centres_say(scenes):
    r = relations(scenes)
    loose = relations(scenes, SLACK)
    for b in range(0, N, 7):
        for i in range(int(scenes.count[b])):
            for j in range(int(scenes.count[b])):
                dx, dy = (float(t[b, i] - t[b, j]) for t in (scenes.x, scenes.y))
                wide = abs(dx) >= abs(dy)
                tall = abs(dy) >= abs(dx)
                far = i != j
                expected = [far and wide and dx <= -0.15, far and wide and dx >= 0.15]
                expected += [far and tall and dy <= -0.15, far and tall and dy >= 0.15]
                assert r[b, :4, i, j].tolist() == expected
    assert (loose | ~r).all()  # what holds also holds with slack
    assert not (r[:, :2] & r[:, :2].flip(1)).any()
    for name, other in CONVERSE.items():
        assert torch.equal(r[:, RELATIONS.index(name)], r[:, RELATIONS.index(other)].transpose(1, 2))


def test_what_is_in_front_covers_what_the_masks_say(scenes, alone):
    part = overlaps(scenes)
    area = alone.sum((2, 3))
    for i in range(MAX_OBJECTS):
        for j in range(i):
            both = scenes.present[:, i]
            exact = ((alone[:, i] * alone[:, j]).sum((1, 2)) / torch.minimum(area[:, i], area[:, j]))[both]
            assert (exact - part[both, i, j]).abs().max() < 0.06
            assert not part[both, j, i].any()
    front = RELATIONS.index("in front of")
    assert torch.equal(relations(scenes)[:, front], part >= 0.10)
    assert torch.equal(relations(scenes, SLACK)[:, front], part >= 0.03)


def test_inside_is_a_hull_within_a_hull(scenes):
    """Every point of the one lies in the other's hull, told by the largest and smallest product with 90 directions."""
    r, by = relations(scenes)[:, RELATIONS.index("inside")], containment(scenes)
    assert torch.equal(r, (by >= 0) & scenes.present[:, :, None] & scenes.present[:, None] & ~torch.eye(4).bool())
    assert r.any((1, 2)).sum() > 20
    line = torch.linspace(-1.45, 1.45, 161)
    v, u = torch.meshgrid(line, line, indexing="ij")
    angle = torch.arange(90) * 2 * math.pi / 90
    normal = torch.stack([angle.cos(), angle.sin()])

    def reach(b, i):
        m = shapes.distance(int(scenes.shape[b, i]), u, v) < 0
        turn, radius = scenes.turn[b, i], scenes.radius[b, i]
        place = torch.stack([u[m] * turn.cos() - v[m] * turn.sin(), u[m] * turn.sin() + v[m] * turn.cos()], 1)
        return ((place * radius + torch.stack([scenes.x[b, i], scenes.y[b, i]])) @ normal).amax(0)

    for b in range(0, N, 15):
        for i in range(int(scenes.count[b])):
            for j in range(int(scenes.count[b])):
                if i != j:
                    gap = (reach(b, j) - reach(b, i)).min()
                    assert abs(float(by[b, i, j] - gap)) < 0.018  # other directions, up to 2.5 degrees away


def test_a_small_circle_in_a_large_ring_is_inside_and_not_in_front():
    ring = {"shape": "ring", "colour": "red", "size": "large", "x": 0.5, "y": 0.5}
    s = scene([ring, {"shape": "circle", "colour": "blue", "size": "small", "x": 0.5, "y": 0.5}])
    r = relations(s)[0]
    assert r[4].nonzero().tolist() == [[1, 0]]
    assert not r[5].any()
    assert not r[:4].any()


def _only(s, j):
    """The scenes with object j alone."""
    return Scenes(
        **{k: v[:, j : j + 1] if v.ndim == 2 and k != "ground_colour" else v for k, v in s.arrays().items()}
        | {"count": s.present[:, j].long()}
    )
