"""Films: every frame is the picture of its state, and states move smoothly as the narration says."""

import math

import pytest
import torch

import sfumato as sf
from sfumato import data
from sfumato.conditioning import Words
from sfumato.data.tableau import shapes
from sfumato.data.tableau.moving import FRAMES, MOTION_WORDS, STEP, TableauFilms, motions, narrate
from sfumato.data.tableau.paint import covered, paint
from sfumato.data.tableau.sampling import sample_scenes
from sfumato.data.tableau.words import WORDS

N = 60


@pytest.fixture(scope="module")
def film():
    return motions(sample_scenes(range(N)), sf.Noise(range(N)))


def test_it_begins_with_the_scene_and_only_places_and_turns_change(film):
    start = sample_scenes(range(N))
    for name, value in film.arrays().items():
        by_film = value.unflatten(0, (N, FRAMES))
        torch.testing.assert_close(by_film[:, 0], start.arrays()[name], atol=1e-6, rtol=1e-6)
        if name not in ("x", "y", "turn"):
            assert (by_film == by_film[:, :1]).all(), name


def test_motion_is_smooth_straight_and_at_rest_at_both_ends(film):
    x, y = (t.unflatten(0, (N, FRAMES)) for t in (film.x, film.y))
    time = torch.linspace(0, 1, FRAMES)
    way = (3 * time**2 - 2 * time**3)[None, :, None]
    for t in (x, y):
        torch.testing.assert_close(t, t[:, :1] + way * (t[:, -1:] - t[:, :1]), atol=1e-5, rtol=0)
        speed = t.diff(dim=1).abs()
        assert (speed[:, 0] <= 0.25 * speed.amax(1) + 1e-6).all()
        assert (speed[:, -1] <= 0.25 * speed.amax(1) + 1e-6).all()
    assert (x - x[:, :1]).abs().max() > 0.4
    order = torch.tensor(shapes.SYMMETRY)[film.shape]
    assert (film.turn[order == 0] == 0).all()
    period = 2 * math.pi / order.clamp(min=1)
    turn = (film.turn / period).unflatten(0, (N, FRAMES))
    step = turn.diff(dim=1)
    step = (step - step.round()) * period.unflatten(0, (N, FRAMES))[:, 1:]  # whole turns of the symmetry are none
    assert step.abs().max() < 0.2
    assert step.abs().sum(1).max() > 1.0
    assert step.abs().sum(1).max() <= math.pi / 2 + 1e-3


def test_nine_tenths_of_every_object_stay_in_the_picture(film):
    area = shapes.areas()[film.shape] * (film.radius * 48).square()
    framed = covered(film, 48)[0].sum(2)[film.present] / area[film.present]
    assert framed.min() > 0.9


def test_the_narration_says_where_each_object_goes(film):
    told = narrate(film, FRAMES, sf.Noise(range(N)))
    known = Words(vocabulary=tuple(dict.fromkeys((*WORDS, *MOTION_WORDS))))
    ways = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
    for b, text in enumerate(told):
        assert not known.spell(text).unknown
        first, last = film[b * FRAMES], film[b * FRAMES + FRAMES - 1]
        step = torch.stack([last.x - first.x, last.y - first.y])[:, 0, : int(first.count)]
        moved = []
        for j in range(int(first.count)):
            most = int(step[:, j].abs().argmax())
            far = float(step[most, j])
            moved.append(
                "stays" if abs(far) < STEP else next(w for w, (a, s) in ways.items() if a == most and s * far > 0)
            )
        assert sorted(part.split()[-1] for part in text.split(", ")) == sorted(moved)
        for j in range(int(first.count)):
            words = [first.describe(0)["objects"][j][name] for name in ("colour", "shape")]
            parts = [part for part in text.split(", ") if set(words) <= set(part.split())]
            assert any(part.endswith(moved[j]) for part in parts)


def test_a_film_is_a_row_of_its_own_and_frames_are_painted_states():
    ds = TableauFilms(size=20, side=32)
    batch = ds.batch([3, 7], sf.Noise([0, 1]))
    assert batch.x0.shape == (2, *ds.shape) == (2, 3, 16, 32, 32)
    states = ds.states([3, 7])
    torch.testing.assert_close(batch.x0[1, :, 5], paint(states[16 + 5], 32)[0], atol=1e-6, rtol=0)
    again = ds.batch([7], sf.Noise([5]))
    torch.testing.assert_close(again.x0[0], batch.x0[1], atol=1e-6, rtol=0)
    assert data.text(again.cond["caption"]) == data.text(batch.cond["caption"])[1:]
    assert sf.from_config(sf.to_config(ds), data.Dataset) == ds
    assert ds.fingerprint != TableauFilms(size=20, side=32, frames=8).fingerprint
    with pytest.raises(sf.InputError, match="frames >= 2"):
        TableauFilms(frames=1)
    with pytest.raises(sf.InputError, match="at least 2 frames"):
        motions(states, sf.Noise(range(32)), 1)
