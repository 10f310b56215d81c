"""Derived maps against the scene they come from."""

import math

import torch

from sfumato.data.tableau import derived
from sfumato.data.tableau.derived import bumps, classes, depth, edges, keypoint_maps, keypoints, segments
from sfumato.data.tableau.paint import paint, visible
from sfumato.data.tableau.sampling import sample_scenes
from sfumato.data.tableau.scene import SHAPES, scene

AT = {"shape": "circle", "colour": "red", "x": 0.5, "y": 0.5, "size": "large"}


def test_segments_partition_the_picture_and_name_what_is_seen_most():
    s = sample_scenes(range(100))
    seg = segments(s, 48)
    seen = visible(s, 48)
    assert seg.max() <= 4
    for j in range(4):
        mine = seg == j + 1
        assert (seen[:, j][mine] >= 0.2 - 1e-6).all()
        assert (mine | (seen[:, j] <= 0.5 + 1e-6)).all()
        assert mine.any((1, 2)).eq(s.present[:, j]).all()
    kinds = classes(s, 48)
    assert torch.equal(kinds == 0, seg == 0)
    for b in range(0, 100, 9):
        for j in range(int(s.count[b])):
            assert (kinds[b][seg[b] == j + 1] == s.shape[b, j] + 1).all()


def test_depth_is_the_order_of_painting():
    s = sample_scenes(range(100))
    d, seen = depth(s, 48)[:, 0], visible(s, 48)
    for j in range(4):
        inside = seen[:, j] > 0.9999
        torch.testing.assert_close(d[inside], torch.full_like(d[inside], (j + 1) / 4), atol=1e-4, rtol=0)
    assert (d[seen.sum(1) == 0] == 0).all()
    over = scene([AT, AT | {"shape": "square", "colour": "blue", "size": "small"}])
    under = scene([AT | {"shape": "square", "colour": "blue", "size": "small"}, AT])
    assert depth(over, 64)[0, 0, 32, 32] == 0.5
    assert depth(under, 64).max() <= 0.5
    assert depth(under, 64)[0, 0, 32, 32] == 0.5


def test_edges_lie_within_half_a_pixel_of_the_outline_and_nowhere_else():
    e = edges(scene([AT]), 64)[0, 0]
    v, u = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    away = (torch.hypot(u - 32, v - 32) - 0.95 * 0.26 * 64).abs()
    torch.testing.assert_close(e, (1 - 4 * away.clamp(max=0.5).square()), atol=1e-3, rtol=0)


def test_hidden_outlines_are_not_drawn_and_pictures_change_only_at_edges():
    ring = {"shape": "square", "colour": "blue", "x": 0.3, "y": 0.5, "size": "large"}
    both, back = edges(scene([ring, AT]), 64)[0, 0], edges(scene([ring]), 64)[0, 0]
    covered = visible(scene([AT]), 64)[0, 0] > 0.999
    assert back[covered].max() > 0.9
    assert both[covered].max() < 1e-2
    s = sample_scenes(range(200))
    plain = (s.ground == 0) & (s.texture == 0).all(1)
    x, e = paint(s[plain], 64), edges(s[plain], 64)[:, 0]
    change = (x[..., 1:] - x[..., :-1]).abs().amax(1)
    near = torch.nn.functional.max_pool2d(e, 3, 1, 1)
    assert change[torch.maximum(near[..., 1:], near[..., :-1]) < 1e-3].max() < 1e-4
    assert e.sum() > 0


def test_keypoints_turn_and_scale_with_their_object():
    at = AT | {"shape": "arrow", "x": 0.4, "y": 0.6, "radius": 0.2}
    torch.testing.assert_close(
        keypoints(scene([at]))[0, 0],
        torch.tensor([[0.4, 0.6], [0.4, 0.4], [0.6, 0.6], [0.4, 0.8], [0.2, 0.6]]),
    )
    quarter = keypoints(scene([at | {"turn": math.pi / 2}]))[0, 0]  # clockwise: what was at the top is at the right
    torch.testing.assert_close(quarter[1], torch.tensor([0.6, 0.6]))
    torch.testing.assert_close(quarter[2], torch.tensor([0.4, 0.8]))
    s = sample_scenes(range(300))
    # an arrow's head is where its top is, whatever its turn
    for b, j in ((s.shape == SHAPES.index("arrow")) & s.present).nonzero().tolist():
        top = keypoints(s[b])[0, j, 1] * 96
        x, y = (int(t) for t in top)
        if 0 <= x < 96 and 0 <= y < 96:
            covers = derived.covered(s[b], 96)[0].unflatten(2, (96, 96))[0, j]
            assert covers[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max() > 0.9


def test_keypoint_maps_are_bumps_at_the_keypoints():
    s = sample_scenes(range(20))
    maps, places = keypoint_maps(s, 64), keypoints(s)
    for b in range(20):
        for j in range(int(s.count[b])):
            for k in range(5):
                x, y = places[b, j, k] * 64
                at = (int(y), int(x))
                if 0 <= at[0] < 64 and 0 <= at[1] < 64:
                    exact = math.exp(-0.5 * ((at[0] + 0.5 - y) ** 2 + (at[1] + 0.5 - x) ** 2))
                    assert maps[b, k, *at] >= exact - 1e-5
    assert keypoint_maps(s, 64).amax() <= 1
    none = bumps(places, torch.zeros(20, 4, dtype=torch.bool), 64, 1.0)
    assert none.abs().max() == 0
    one = keypoint_maps(scene([AT]), 64, width=2.0)[0, 0]
    assert math.isclose(float(one.sum()), 2 * math.pi * 4, rel_tol=1e-3)
