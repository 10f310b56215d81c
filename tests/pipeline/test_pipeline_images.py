"""Pixels are exact, points lie where they are, sheets keep every pixel."""

import math

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato.pipeline import Pixels, Points
from sfumato.pipeline.images import contact_sheet


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-3.0, 5.0)])
def test_every_level_comes_back(low, high):
    levels = torch.arange(256.0, dtype=torch.float64).reshape(1, 1, 16, 16)
    x = low + (high - low) * levels / 255
    image = Pixels(low=low, high=high).images(x)[0]
    assert np.array_equal(np.asarray(image), levels[0, 0].numpy())


def test_pixels_round_to_nearest_clip_and_survive_nan():
    x = torch.tensor([-9.0, 9.0, (2 * 100.4 / 255) - 1, (2 * 100.6 / 255) - 1, float("nan"), float("inf")])
    image = Pixels().images(x.reshape(1, 1, 2, 3))[0]
    assert np.asarray(image).flatten().tolist() == [0, 255, 100, 101, 0, 255]


def test_colour_is_channels_first_and_rows_are_apart():
    x = -torch.ones(2, 3, 2, 2)
    x[1, 2, 0, 1] = 1.0
    first, second = Pixels().images(x)
    assert first.mode == second.mode == "RGB"
    assert np.asarray(first).sum() == 0
    assert second.getpixel((1, 0)) == (0, 0, 255)
    assert np.asarray(second).sum() == 255


def test_points_are_drawn_where_they_are():
    """(2, 1) of the square [-4, 4]^2 lies at three quarters from the left and three eighths from the top."""
    x = torch.tensor([[2.0, 1.0], [math.nan, 0.0], [1e30, 0.0]])
    image = np.asarray(Points(limit=4.0, size=400).images(x)[0])
    dark = np.argwhere(image < 200)
    assert len(dark) > 3
    assert np.abs(dark.mean(0) - [150 - 0.5, 300 - 0.5]).max() < 1


def test_points_keep_their_numbers():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    head, *rows = Points().table(x).splitlines()
    back = torch.tensor([[float(v) for v in row.split(",")] for row in rows])
    assert head == "x,y"
    assert torch.equal(back, x)


def test_a_sheet_holds_every_picture_enlarged_without_smoothing():
    x = torch.linspace(-1, 1, 5 * 16).reshape(5, 1, 4, 4)
    images = Pixels().images(x)
    sheet = np.asarray(contact_sheet(images, columns=3, least=8))
    gap = 2
    assert sheet.shape == (2 * (8 + gap) + gap, 3 * (8 + gap) + gap)
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        top, left = gap + row * (8 + gap), gap + column * (8 + gap)
        assert np.array_equal(sheet[top : top + 8 : 2, left : left + 8 : 2], np.asarray(image))
        assert np.array_equal(sheet[top + 1 : top + 8 : 2, left + 1 : left + 8 : 2], np.asarray(image))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pixels(low=1.0, high=1.0), "low < high"),
        (lambda: Points(limit=0.0), "positive limit"),
        (lambda: Points(size=10**6), "size of 16 to 8192"),
        (lambda: Points().check((3,)), "points have the shape"),
        (lambda: Pixels().check((1, 4)), "pixels have the shape"),
        (lambda: contact_sheet([]), "no pictures"),
        (lambda: contact_sheet(Pixels().images(torch.zeros(1, 1, 2, 2)), columns=0), "at least 1 column"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(sf.InputError, match=message):
        make()
