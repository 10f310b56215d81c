"""Post-hoc averages: the profile's moments, the recursion against its closed form, reconstruction, and resuming."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from train_toy import trainer

from sfumato.core import CheckpointError, InputError
from sfumato.core.weights import read_weights
from sfumato.train import PostHoc, Run, latest_checkpoint, posthoc, reconstruct


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94), (0.2, 1.826)])
def test_exponent_gives_the_profile_its_width(sigma_rel, gamma):
    found = posthoc.exponent(sigma_rel)
    assert found == pytest.approx(gamma, abs=0.02)
    tau = (np.arange(200_000) + 0.5) / 200_000
    weight = tau**found / np.sum(tau**found)
    mean = np.sum(weight * tau)
    assert math.sqrt(np.sum(weight * (tau - mean) ** 2)) == pytest.approx(sigma_rel, rel=1e-6)


def test_lengths_that_cannot_be_are_refused():
    for wrong in (0.0, 0.3, -1.0):
        with pytest.raises(InputError, match="between 0 and"):
            posthoc.exponent(wrong)
    with pytest.raises(InputError, match="every"):
        PostHoc(every=0)
    with pytest.raises(InputError, match="different lengths"):
        PostHoc(every=1, sigma_rels=(0.1, 0.1))


class Scalar(nn.Module):
    def __init__(self, width=1):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(width, dtype=torch.float64))


def shares(steps, gamma):
    """What each step's weights count after `steps`: the integral of the profile over the step's images."""
    edges = (np.arange(steps + 1) / steps) ** (gamma + 1)
    return np.diff(edges)


def test_recursion_is_the_weighted_mean():
    net, sizes = Scalar(), [4, 4, 4, 4, 4, 4, 4]
    average = posthoc.PowerEMA(net, (0.05, 0.1, 0.25))
    values = np.sin(np.arange(1, 8) * 1.3)
    for i, value in enumerate(values):
        net.w.data.fill_(value)
        average.update(4, sum(sizes[: i + 1]))
    for sigma_rel, (found,) in average.averages.items():
        exact = float(shares(7, posthoc.exponent(sigma_rel)) @ values)
        assert float(found) == pytest.approx(exact, rel=1e-12)


def test_inner_product_is_the_integral():
    tau = (np.arange(400_000) + 0.5) / 400_000 * 3.0
    for t, g, u, h in ((1.0, 2.0, 3.0, 1.5), (2.0, 7.0, 2.0, 0.3), (3.0, 16.9, 0.7, 6.9)):
        profiles = [(e + 1) * tau**e / end ** (e + 1) * (tau <= end) for end, e in ((t, g), (u, h))]
        assert posthoc.inner(t, g, u, h) == pytest.approx(float((profiles[0] * profiles[1]).mean() * 3.0), rel=1e-4)


def walk(steps, width=64):
    """A trajectory such as training makes: a slow drift with noise that shrinks."""
    rng = np.random.default_rng(0)
    drift = np.cumsum(rng.standard_normal((steps, width)), 0) / math.sqrt(steps)
    return drift + 3.0 * np.exp(-np.arange(steps) / (0.2 * steps))[:, None] + rng.standard_normal((steps, width))


def test_any_length_is_reconstructed():
    """20,000 steps, 16 snapshots of two lengths: relative errors below 5e-3 for lengths from 0.05 to 0.2."""
    steps, count = 20_000, 16
    path = walk(steps)
    places = [(steps * (i + 1) // count, s) for i in range(count) for s in (0.05, 0.10)]
    saved = np.stack([shares(t, posthoc.exponent(s)) @ path[:t] for t, s in places])
    times = np.array([float(t) for t, _ in places])
    exponents = np.array([posthoc.exponent(s) for _, s in places])
    errors = {}
    for wanted in (0.05, 0.075, 0.1, 0.15, 0.2, 0.02):
        gamma = posthoc.exponent(wanted)
        weights = posthoc.combination(times, exponents, float(steps), gamma)
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        truth = shares(steps, gamma) @ path
        errors[wanted] = np.linalg.norm(weights @ saved - truth) / np.linalg.norm(truth)
        nearest = min(np.linalg.norm(row - truth) for row in saved[-2:]) / np.linalg.norm(truth)
        assert wanted in (0.05, 0.1) or errors[wanted] < 0.2 * nearest
    assert errors[0.05] < 1e-10
    assert errors[0.1] < 1e-10
    assert max(errors[s] for s in (0.05, 0.075, 0.1, 0.15, 0.2)) < 5e-3
    assert errors[0.02] > 5e-3, "outside of the tracked lengths it is not claimed"


def test_earlier_moments_are_reconstructed_too():
    """What is saved at later times does not disturb a profile that ends earlier."""
    path = walk(4000, 8)
    places = [(t, s) for t in range(500, 4001, 500) for s in (0.05, 0.10)]
    saved = np.stack([shares(t, posthoc.exponent(s)) @ path[:t] for t, s in places])
    keep = [i for i, (t, _) in enumerate(places) if t <= 3000]
    times, exponents = (
        np.array([places[i][0] for i in keep], dtype=float),
        np.array([posthoc.exponent(places[i][1]) for i in keep]),
    )
    gamma = posthoc.exponent(0.12)
    found = posthoc.combination(times, exponents, 3000.0, gamma) @ saved[keep]
    truth = shares(3000, gamma) @ path[:3000]
    assert np.linalg.norm(found - truth) < 5e-3 * np.linalg.norm(truth)


def changes(**more):
    return {"steps": 40, "posthoc": PostHoc(every=4)} | more


def test_a_run_saves_what_reconstructs_it(tmp_path):
    """The weights of every step are watched, so the exact average of any length is known."""
    run = Run.create(tmp_path, "toy")
    made, seen = trainer(run, **changes()), []
    update = made.state.update

    def watched(loss):
        update(loss)
        seen.append({n: p.detach().double().clone() for n, p in made.model.net.named_parameters()})

    made.state.update = watched
    made.train()
    assert len(posthoc.snapshots(run)) == 10
    for wanted, bar in ((0.05, 1e-5), (0.08, 5e-3), (0.15, 5e-3)):
        found = reconstruct(run, wanted)
        share = shares(40, posthoc.exponent(wanted))
        for name, tensor in found.items():
            exact = sum(float(w) * step[name] for w, step in zip(share, seen))
            assert tensor.dtype == torch.float32
            assert float((tensor - exact).norm() / exact.norm()) < bar, (wanted, name)
    early = reconstruct(run, 0.1, step=20)
    share = shares(20, posthoc.exponent(0.1))
    exact = sum(float(w) * step["last.weight"] for w, step in zip(share, seen))
    torch.testing.assert_close(early["last.weight"].double(), exact, rtol=1e-4, atol=1e-6)
    with pytest.raises(CheckpointError, match="no snapshot of its averages at step 21"):
        reconstruct(run, 0.1, step=21)


def test_resuming_changes_no_bit_of_the_averages(tmp_path):
    whole, parted = (Run.create(tmp_path, name) for name in ("whole", "parted"))
    trainer(whole, **changes()).train()
    trainer(parted, **changes(steps=17)).train()  # 17 is a checkpoint and a snapshot of its own
    (parted.path / "averages" / "step-00000099.safetensors").write_bytes(b"of a line of history that was given up")
    trainer(parted, **changes()).train()
    a, b = (latest_checkpoint(r.checkpoints).read("powers") for r in (whole, parted))
    assert all(torch.equal(a[name], b[name]) for name in a)
    names = {p.name for p in posthoc.snapshots(whole)}
    assert {p.name for p in posthoc.snapshots(parted)} == names | {"step-00000017.safetensors"}
    for name in names:
        one, two = (read_weights(r.path / "averages" / name) for r in (whole, parted))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_without_averages_says_so(tmp_path):
    run = Run.create(tmp_path, "toy")
    trainer(run, steps=2).train()
    assert "powers" not in {p.stem for p in latest_checkpoint(run.checkpoints).path.iterdir()}
    with pytest.raises(CheckpointError, match=r"train with TrainConfig\.posthoc"):
        reconstruct(run, 0.1)
