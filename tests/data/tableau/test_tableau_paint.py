"""Painting is exact: areas, edges, the order of objects, sizes of picture, and no two combinations alike."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

import sfumato as sf
from sfumato.data.tableau import shapes
from sfumato.data.tableau.paint import covered, grounds, paint, tones, visible
from sfumato.data.tableau.sampling import sample_scenes
from sfumato.data.tableau.scene import COLOURS, MAX_OBJECTS, RADII, SHAPES, SIZES, TEXTURES, Scenes, cat, palette, scene


def test_a_plain_scene_has_exactly_its_two_colours_and_the_circle_its_area():
    s = scene([{"shape": "circle", "colour": "red", "x": 0.5, "y": 0.5, "size": "large"}], {"colours": ["sage"]})
    x = paint(s, 64)
    base, back = palette()
    seen = visible(s, 64)[0, 0]
    torch.testing.assert_close(x[0, :, seen == 1], base[0, 0, :, None].expand(-1, int((seen == 1).sum())))
    torch.testing.assert_close(x[0, :, seen == 0], back[3, :, None].expand(-1, int((seen == 0).sum())))
    assert seen.sum().item() == pytest.approx(math.pi * (0.95 * 0.26 * 64) ** 2, rel=2e-3)
    # every pixel is the mixture that the coverage says
    mix = seen * base[0, 0, :, None, None] + (1 - seen) * back[3, :, None, None]
    torch.testing.assert_close(x[0], mix, atol=1e-6, rtol=0)


_TIPS = [math.radians(-90 + 72 * k) for k in range(5)]
OUTLINE = {  # points that lie on each outline, u to the right and v downwards
    "circle": [(0.95, 0), (0, -0.95), (0.57, 0.76)],
    "square": [(0.85, 0.85), (-0.85, 0.3), (0.2, -0.85)],
    "triangle": [(0, -1.36), (1.36 * math.sqrt(0.75), 0.68), (-1.36 * math.sqrt(0.75), 0.68), (0.5, 0.68)],
    "star": [(1.36 * math.cos(a), 1.36 * math.sin(a)) for a in _TIPS]
    + [(0.58 * math.cos(a + math.pi / 5), 0.58 * math.sin(a + math.pi / 5)) for a in _TIPS],
    "ring": [(1.04, 0), (0, -0.52), (-0.624, 0.832)],
    "cross": [(1.1, 0.34), (0.34, 0.34), (-0.34, -1.1), (0, 1.1)],
    "heart": [(0, 0.24 + 0.6 * math.sqrt(2)), (0.6 * math.sqrt(2), 0.24), (0, 0.24 - 0.6 * math.sqrt(2))],
    "diamond": [(0.74, 0), (0, -1.36), (0.37, 0.68)],
    "moon": [(0.42 - 1.16, 0), (0.98 - 0.96, 0), (0.42, 1.16)],
    "drop": [(0, 0.36 - 1.75), (0, 1.12), (0.76, 0.36 + 1e-6)],
    "arrow": [(0, -1.2), (0.34, 1.15), (1.05, -0.1), (0.34, 0.5)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_run_through_their_corners_and_distances_are_those_of_lines_and_arcs(shape):
    k = SHAPES.index(shape)
    u, v = torch.tensor(OUTLINE[shape]).T
    if shape == "drop":  # beside its disc the outline is the tangent from the tip, up to where it touches
        slope = 0.76 / 1.75
        u[2], v[2] = 0.76 * math.sqrt(1 - slope**2), 0.36 - 0.76 * slope
    assert shapes.distance(k, u, v).abs().max() < 1e-5
    line = torch.linspace(-1.5, 1.5, 1501)
    v, u = torch.meshgrid(line, line, indexing="ij")
    d = shapes.distance(k, u, v)
    across, down = torch.gradient(d, spacing=3 / 1500)
    near = d.abs() < 0.05
    slope = torch.hypot(across, down)[near]
    assert (slope - 1).abs().quantile(0.9) < 2e-3  # all but where two sides meet
    assert slope.max() < 1.02  # differences across a fold mix two sides
    assert torch.hypot(u, v)[d <= 0].max() < shapes.REACH


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_the_area_of_the_shape_whatever_its_turn_and_size(shape):
    k = SHAPES.index(shape)
    line = torch.linspace(-1.5, 1.5, 1501)
    v, u = torch.meshgrid(line, line, indexing="ij")
    area = (shapes.distance(k, u, v) < 0).float().mean().item() * 9
    for turn, radius, side in itertools.product((0.0, 0.4, 2.0), (0.13, 0.26), (32, 64)):
        place = {"shape": shape, "colour": "red", "x": 0.503, "y": 0.489, "turn": turn, "radius": radius}
        seen = visible(scene([place]), side).sum()
        assert seen.item() == pytest.approx(area * (radius * side) ** 2, rel=0.03)
    assert shapes.areas()[k].item() == pytest.approx(area, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_symmetry_is_as_the_table_says_and_no_higher(shape):
    k = SHAPES.index(shape)
    order = shapes.SYMMETRY[k]
    at = {"shape": shape, "colour": "red", "x": 0.5, "y": 0.5, "size": "large"}
    start = visible(scene([at | {"turn": 0.2}]), 64)

    def moved(turn):
        return (visible(scene([at | {"turn": 0.2 + turn}]), 64) - start).abs().sum() / start.sum()

    if order == 0:
        assert max(moved(t) for t in (0.3, 1.0, 2.0)) < 1e-3
        return
    assert moved(2 * math.pi / order) < 1e-3
    lower = [2 * math.pi / n for n in range(2, 13) if order % n]
    assert min(moved(t) for t in lower) > 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_turns_are_clockwise_and_places_run_right_and_down(shape):
    base = {"shape": shape, "colour": "red", "size": "large"}
    a = visible(scene([base | {"x": 0.5, "y": 0.5}]), 64)[0, 0]
    b = visible(scene([base | {"x": 0.5 + 4 / 64, "y": 0.5 - 2 / 64}]), 64)[0, 0]
    torch.testing.assert_close(b[8:52, 8:52], a[10:54, 4:48], atol=1e-4, rtol=0)
    quarter = visible(scene([base | {"x": 0.5, "y": 0.5, "turn": math.pi / 2}]), 64)[0, 0]
    torch.testing.assert_close(quarter, a.rot90(-1), atol=1e-3, rtol=0)


def test_later_objects_cover_earlier_ones_and_what_is_seen_partitions_the_picture():
    s = sample_scenes(range(200))
    seen = visible(s, 48)
    assert seen.min() >= 0
    assert seen.sum(1).max() <= 1 + 1e-5
    # by hand: each object alone, then one over the other
    alone = torch.stack([visible(_only(s, j), 48)[:, 0] for j in range(MAX_OBJECTS)], 1)
    rest = torch.ones(200, 48, 48)
    for j in reversed(range(MAX_OBJECTS)):
        torch.testing.assert_close(seen[:, j], alone[:, j] * rest, atol=1e-6, rtol=0)
        rest = rest * (1 - alone[:, j])
    torch.testing.assert_close(1 - seen.sum(1), rest, atol=1e-5, rtol=0)


def test_the_picture_is_what_painting_object_by_object_gives():
    s = sample_scenes(range(100))
    canvas = grounds(s, 32)
    base = palette()[0]
    tone = covered(s, 32)[1].unflatten(2, (32, 32))
    for j in range(MAX_OBJECTS):
        cover = visible(_only(s, j), 32)[:, :1]
        first, second = (base[s.colour[:, j], k, :, None, None] for k in (0, 1))
        canvas = canvas * (1 - cover) + cover * torch.lerp(first, second, tone[:, j : j + 1])
    torch.testing.assert_close(paint(s, 32), canvas, atol=1e-5, rtol=0)


def test_the_same_scene_at_twice_the_size_averages_to_the_small_picture():
    s = sample_scenes(range(64))
    small, large = paint(s, 32), paint(s, 128)
    pooled = torch.nn.functional.avg_pool2d(large, 4)
    assert (pooled - small).abs().mean() < 0.01
    assert (pooled - small).abs().quantile(0.99) < 0.2


def test_a_row_does_not_depend_on_its_batch():
    s = sample_scenes(range(40))
    whole = paint(s, 32)
    for i in (0, 7, 39):
        assert torch.equal(paint(s[i], 32)[0], whole[i])
    assert torch.equal(paint(cat([s[:10], s[10:]]), 32), whole)


def test_stripes_dots_and_checks_cover_about_half_and_half_a_turn_changes_none():
    line = torch.linspace(-0.9, 0.9, 181)
    v, u = torch.meshgrid(line, line, indexing="ij")
    kinds = torch.arange(len(TEXTURES))
    pixels = torch.tensor(200.0)
    t = tones(kinds, u.expand(4, -1, -1), v.expand(4, -1, -1), pixels)
    assert t[0].max() == 0
    for k, share in ((1, 0.5), (2, 0.40), (3, 0.5)):
        assert t[k].mean().item() == pytest.approx(share, abs=0.03)
        torch.testing.assert_close(t[k], t[k].rot90(2), atol=1e-3, rtol=0)
    assert torch.equal(t[1], t[1][:1].expand(181, -1))  # stripes run along v
    assert not torch.allclose(t[3], t[3][:1].expand(181, -1))


def test_a_graded_ground_runs_from_its_first_colour_to_its_second_along_its_angle():
    back = {"kind": "graded", "colours": ["beige", "slate"], "angle": 0.0}
    far = {"shape": "circle", "colour": "red", "x": 0.5, "y": 0.5}
    _, colours = palette()
    x = grounds(scene([far], back), 64)[0]
    wide = colours[0, :, None] + (torch.arange(64) + 0.5) / 64 * (colours[2] - colours[0])[:, None]
    torch.testing.assert_close(x, wide[:, None, :].expand(-1, 64, -1), atol=1e-6, rtol=0)
    down = grounds(scene([far], back | {"angle": math.pi / 2}), 64)[0]
    torch.testing.assert_close(down, x.transpose(1, 2), atol=1e-5, rtol=0)
    corner = grounds(scene([far], back | {"angle": math.pi / 4}), 256)[0]
    torch.testing.assert_close(corner[:, 0, 0], colours[0], atol=0.01, rtol=0)
    torch.testing.assert_close(corner[:, -1, -1], colours[2], atol=0.01, rtol=0)


def test_a_textured_ground_is_its_colour_lighter_and_darker_and_its_own_for_each_seed():
    s = [
        scene([{"shape": "circle", "colour": "red", "x": 0.5, "y": 0.5}], {"kind": "textured", "seed": k})
        for k in (1, 2)
    ]
    a, b = (grounds(part, 64)[0] for part in s)
    assert (a - b).abs().mean() > 0.05
    light = (a + 1) / (palette()[1][1][:, None, None] + 1)
    torch.testing.assert_close(light[0], light[1])
    many = grounds(cat([replace(s[0], ground_seed=torch.tensor([k])) for k in range(300)]), 32)
    assert ((many[:, 0] + 1) / (palette()[1][1, 0] + 1) - 1).std().item() == pytest.approx(0.1, abs=0.01)


def test_colours_and_tones_and_grounds_are_apart():
    base, back = (0.5 * (t + 1) for t in palette())
    between = torch.cdist(base[:, 0], base[:, 0]) + torch.eye(len(COLOURS))
    assert between.min() > 0.45
    assert torch.cdist(base[:, 1], base[:, 0]).masked_fill(torch.eye(len(COLOURS)).bool(), 1).min() > 0.27
    assert (base[:, 0] - base[:, 1]).norm(dim=1).min() > 0.4
    assert torch.cdist(back, base[:, 0]).min() > 0.33
    assert (torch.cdist(back, back) + torch.eye(len(back))).min() > 0.17


def test_no_two_combinations_look_alike_on_32_pixels_even_small():
    """Every shape, colour and texture at several places and turns: the closest are 0.02 apart (root mean square)."""
    for size in SIZES:
        fixed = _combinations(size, 0.43, 0.52, 0.2)
        pictures = paint(fixed, 32).flatten(1)
        closest = torch.full((len(fixed), len(fixed)), math.inf)
        for turn, (dx, dy) in itertools.product((0.0, 0.2, 0.5, 0.75), ((0, 0), (0.5, 0.5))):
            other = paint(_combinations(size, 0.43 + dx / 32, 0.52 + dy / 32, turn), 32).flatten(1)
            closest = torch.minimum(closest, torch.cdist(pictures, other))
        closest.fill_diagonal_(math.inf)
        assert closest.min() / math.sqrt(3 * 32 * 32) > 0.02


def test_scenes_written_by_hand_come_back_in_words():
    s = sample_scenes(range(50))
    for i in range(50):
        words = s.describe(i)
        again = scene(words["objects"], words["ground"])
        for name, value in again.arrays().items():
            assert torch.equal(value, s[i].arrays()[name]), name
    with pytest.raises(sf.InputError, match="did you mean 'circle'"):
        scene([{"shape": "circel", "colour": "red", "x": 0.5, "y": 0.5}])
    with pytest.raises(sf.InputError, match="has no x"):
        scene([{"shape": "circle", "colour": "red", "y": 0.5}])
    with pytest.raises(sf.InputError, match="1 to 4"):
        scene([])
    with pytest.raises(sf.InputError, match="side 2"):
        paint(s, 2)


def _only(s, j):
    """The scenes with object j alone."""
    return Scenes(
        **{k: v[:, j : j + 1] if v.ndim == 2 and k != "ground_colour" else v for k, v in s.arrays().items()}
        | {"count": s.present[:, j].long()}
    )


def _combinations(size, x, y, turn):
    """Every shape, colour and texture, `turn` in parts of the shape's own."""
    shape, colour, texture = torch.cartesian_prod(*map(torch.arange, (len(SHAPES), len(COLOURS), len(TEXTURES)))).T
    n = len(shape)
    order = torch.tensor([o or math.inf for o in shapes.SYMMETRY])[shape]
    zero = torch.zeros(n, dtype=torch.int64)
    return Scenes(
        count=zero + 1,
        shape=shape[:, None],
        colour=colour[:, None],
        size=zero[:, None] + SIZES.index(size),
        texture=texture[:, None],
        x=torch.full((n, 1), x),
        y=torch.full((n, 1), y),
        radius=torch.full((n, 1), RADII[SIZES.index(size)]),
        turn=(turn * 2 * math.pi / order)[:, None],
        ground=zero,
        ground_colour=zero[:, None].expand(-1, 2) + 1,
        ground_angle=torch.zeros(n),
        ground_seed=zero,
    )


def test_no_two_of_a_thousand_scenes_look_alike():
    x = paint(sample_scenes(range(1000)), 32).flatten(1)
    apart = torch.cdist(x, x)
    apart.fill_diagonal_(math.inf)
    assert apart.min() / math.sqrt(3072) > 0.02
