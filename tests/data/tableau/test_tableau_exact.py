"""The exact teacher against brute force, and what samplers, guidance, inversion and measurements make of it."""

import math

import pytest
import torch

import sfumato as sf
from sfumato.core import VPCosine, invert
from sfumato.data.tableau import parse
from sfumato.data.tableau.exact import SubWorld
from sfumato.testing import Empirical, exact_network

SMALL = SubWorld(side=16, places=3, sizes=("medium",), shapes=("circle", "square"), grounds=("slate",))


def noised(world, n, t, seed=0, schedule=None):
    alpha, sigma = (schedule or sf.Rectified())(t)
    return alpha * world.sample(n, seed, dtype=torch.float64) + sigma * sf.Noise(range(n)).normal(
        (n, *world.shape), "test", dtype=torch.float64
    )


@pytest.mark.parametrize("world", [SubWorld(), SubWorld.pairs()], ids=["one", "two"])
def test_no_two_scenes_look_alike(world):
    points = world.points.flatten(1)
    square = points.square().sum(1)
    least = math.inf
    for start in range(0, len(points), 512):
        part = points[start : start + 512]
        off = square[start : start + 512, None] + square - 2 * part @ points.T
        off[torch.arange(len(part)), start + torch.arange(len(part))] = math.inf
        least = min(least, float(off.min()))
    assert least / points.shape[1] > 4e-4  # of the mean square; equal pictures have 0
    index, residual = world.nearest(world.points[::97])
    assert torch.equal(index, torch.arange(len(world))[::97])
    assert float(residual.max()) < 1e-12


def test_the_sizes_of_the_sub_worlds():
    assert len(SubWorld()) == 4 * 4 * 2 * 3 * 7 * 7 == 4704
    assert len(SubWorld.pairs()) == 36 * (3 * 3) ** 2 * 2 == 5832
    assert len(SMALL) == 2 * 4 * 9


@pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 0.99])
def test_the_posterior_mean_is_that_of_brute_force(t):
    x = noised(SMALL, 7, t)
    truth = Empirical(SMALL.points)
    torch.testing.assert_close(SMALL.denoiser(sf.Rectified())(x, t), truth.denoiser(sf.Rectified())(x, t))
    each = torch.linspace(0.1, t, 7, dtype=torch.float64)
    torch.testing.assert_close(SMALL.denoiser(sf.Rectified())(x, each), truth.denoiser(sf.Rectified())(x, each))


def test_a_caption_is_a_class():
    claims = [parse("a red circle"), parse("a square"), parse("a blue shape"), parse("a circle")]
    allowed = SMALL.allowed(claims)
    assert allowed.sum(1).tolist() == [9, 36, 18, 36]
    x = noised(SMALL, 4, 0.9)
    got = SMALL.denoiser(sf.Rectified())(x, 0.9, allowed=allowed)
    for row, which in enumerate(allowed):
        alone = Empirical(SMALL.points[which]).denoiser(sf.Rectified())(x[row : row + 1], 0.9)
        torch.testing.assert_close(got[row : row + 1], alone)


def test_grain_makes_each_scene_a_gaussian():
    grain = SubWorld(side=16, places=2, sizes=("medium",), shapes=("circle",), grounds=("slate",), grain=0.05)
    mixture = sf.testing.GaussianMixture(means=grain.points, covariances=[0.05**2] * len(grain))
    for t in (0.02, 0.5, 0.95):
        x = noised(grain, 5, t)
        torch.testing.assert_close(grain.denoiser(sf.Rectified())(x, t), mixture.denoiser(sf.Rectified())(x, t))
    drawn = grain.sample(400, seed=1)
    index, _ = grain.nearest(drawn)
    assert float((drawn - grain.points[index]).std()) == pytest.approx(0.05, rel=0.01)
    assert len(index.unique()) == len(grain)


def test_samples_are_scenes_of_the_caption_whatever_the_prediction():
    schedule = VPCosine()
    allowed = SMALL.allowed([parse("a yellow square")]).expand(24, -1)
    grid = sf.grids.uniform(schedule, 40, start=0.995)
    made = {"solver": sf.solvers.DDIM(), "grid": grid, "seeds": range(24), "cond": {"allowed": allowed}}
    x0 = sf.sample(SMALL.denoiser(schedule), (24, *SMALL.shape), **made)
    index, residual = SMALL.nearest(x0)
    assert allowed[0][index].all()
    assert float(residual.max()) < 1e-3
    assert len(index.unique()) > 4
    network = exact_network(SMALL, schedule, sf.V())
    grid = grid.float().double()
    x0 = sf.sample(SMALL.denoiser(schedule), (24, *SMALL.shape), **(made | {"grid": grid}))
    torch.testing.assert_close(
        sf.sample(network, (24, *SMALL.shape), **(made | {"grid": grid})), x0, atol=1e-4, rtol=1e-4
    )


def test_guidance_is_linear_in_both_branches():
    allowed = SMALL.allowed([parse("a red circle")]).expand(3, -1)
    teacher, x = SMALL.denoiser(sf.Rectified()), noised(SMALL, 3, 0.9)
    guided = sf.guidance.ClassifierFree(denoiser=teacher, scale=3.0)(x, 0.9, allowed=allowed)
    both = teacher(x, 0.9), teacher(x, 0.9, allowed=allowed)
    torch.testing.assert_close(guided, both[0] + 3 * (both[1] - both[0]))


def test_inversion_of_a_grainy_picture_gives_a_normal_latent():
    world = SubWorld(side=16, places=3, sizes=("medium",), shapes=("circle", "square"), grounds=("slate",), grain=0.05)
    x0 = world.sample(16, seed=3, dtype=torch.float64)
    schedule = sf.Rectified()
    grid = sf.grids.uniform(schedule, 100, start=0.999)
    noise = invert(world.denoiser(schedule), x0, solver=sf.solvers.Heun(), grid=grid)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)
    point = invert(SMALL.denoiser(schedule), SMALL.points[:16], solver=sf.solvers.Heun(), grid=grid)
    assert float(point.std()) < 0.6  # a point of the data carries no noise


def test_known_pixels_are_kept():
    from sfumato import inverse

    truth = SMALL.points[:8].float()
    mask = torch.zeros(1, 16, 16)
    mask[:, :, :10] = 1.0  # the left part is known
    known = inverse.Mask(mask=mask)
    schedule = VPCosine()
    denoiser = inverse.DDNM(denoiser=SMALL.denoiser(schedule), operator=known, y=known.A(truth))
    grid = sf.grids.uniform(schedule, 50, start=0.995)
    x0 = sf.sample(denoiser, solver=sf.solvers.DDIM(), grid=grid, seeds=range(8), shape=truth.shape)
    torch.testing.assert_close(known.A(x0), known.A(truth))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SubWorld(shapes=("blob",)), "shape 'blob'"),
        (lambda: SubWorld(objects=3), "1 or 2"),
        (lambda: SubWorld(places=40), "too many"),
        (lambda: SubWorld(margin=0.0), "margin"),
        (lambda: SMALL.allowed([parse("a green heart")]), "no scene"),
        (lambda: SMALL.denoiser(sf.Rectified())(torch.zeros(2, 3, 8, 8), 0.5), "shape"),
        (lambda: SMALL.denoiser(sf.Rectified())(torch.zeros(2, *SMALL.shape), torch.tensor([0.5])), "one time a row"),
        (
            lambda: SMALL.denoiser(sf.Rectified())(
                torch.zeros(1, *SMALL.shape), 0.5, allowed=torch.zeros(1, len(SMALL), dtype=torch.bool)
            ),
            "a scene in each row",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(sf.InputError, match=words):
        call()


def test_it_is_its_own_configuration():
    assert sf.from_config(sf.to_config(SubWorld.pairs(grain=0.1))) == SubWorld.pairs(grain=0.1)
