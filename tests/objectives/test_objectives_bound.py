"""The bound as an objective: KL and decoder in closed form, gradients, importance, the memory of the Trainer."""

import math

import pytest
import torch
from torch import nn

from sfumato.core import (
    Batch,
    Eps,
    InputError,
    LearnedVariance,
    Noise,
    Preconditioned,
    V,
    VPCosine,
    VPLinear,
    from_config,
    grids,
    posterior,
    to_config,
)
from sfumato.data import Tensors
from sfumato.measure import variational_bound
from sfumato.objectives import VLB, Hybrid, Importance, Remembering
from sfumato.objectives.bound import decoder, gaussian_kl
from sfumato.testing import Gaussian
from sfumato.train import Run, TrainConfig, Trainer, latest_checkpoint

LAW = Gaussian([0.2, -0.4], [[0.3, 0.1], [0.1, 0.2]])


class Net(nn.Module):
    """The exact eps of a law, plus a learnable shift, and a learnable constant variance share."""

    def __init__(self, schedule, law=LAW, share=0.3):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.share = nn.Parameter(torch.tensor(2 * share - 1, dtype=torch.float64))
        self.schedule, self.law = schedule, law
        self.cond = {}

    def forward(self, x, c_noise):
        t = (c_noise.double() / 1000).expand(len(x))
        alpha, sigma = (v[:, None] for v in self.schedule(t))
        eps = (x - alpha * self.law.denoiser(self.schedule)(x, t)) / sigma + self.shift
        return torch.cat([eps, self.share.expand_as(eps)], 1)


def model(schedule=None, **more):
    schedule = VPLinear() if schedule is None else schedule
    return Preconditioned(Net(schedule, **more), schedule, LearnedVariance())


def test_kl_is_torch_distributions():
    gap, q, p = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(0 * gap, (q / 2).exp()), normal(gap, (p / 2).exp()))
    torch.testing.assert_close(gaussian_kl(gap, q, p), exact)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.98, 0.01), (-1.3, 0.2), (0.3, 1e-4), (5.0, 0.1)])
def test_decoder_sums_to_one_over_all_levels(mean, std):
    for count in (17, 256):
        bin = 2 / (count - 1)
        levels = torch.linspace(-1, 1, count, dtype=torch.float64)
        nats = decoder(levels, torch.full_like(levels, mean), 2 * math.log(std), bin)
        assert float(torch.exp(-nats).sum()) == pytest.approx(1.0, abs=1e-9)
        inner = torch.distributions.Normal(*torch.tensor([mean, std], dtype=torch.float64))
        mass = inner.cdf(levels + bin / 2) - inner.cdf(levels - bin / 2)
        some = (mass > 1e-9) & (levels.abs() < 0.99)
        torch.testing.assert_close(torch.exp(-nats)[some], mass[some], rtol=1e-6, atol=0)


def test_decoder_has_gradients_where_the_mean_is_far_off():
    levels = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    mean = torch.tensor([3.0, -40.0, -2.0], dtype=torch.float64, requires_grad=True)
    nats = decoder(levels, mean, torch.tensor(-6.0), 1 / 8)
    (slope,) = torch.autograd.grad(nats.sum(), mean)
    assert bool(torch.isfinite(nats).all())
    assert slope.sign().tolist() == [1.0, -1.0, -1.0]
    density = decoder(levels, mean.detach(), torch.tensor(-6.0), None)
    torch.testing.assert_close(density, -torch.distributions.Normal(mean.detach(), math.exp(-3)).log_prob(levels))


def test_mean_of_the_steps_is_the_bound():
    """Every step's loss, added up, is the bound that `variational_bound` evaluates on the same chain."""
    T, n, rows = 8, 8, LAW.sample(4000, 1, dtype=torch.float64)
    schedule = VPCosine()
    denoiser = model(schedule)
    total = torch.zeros(len(rows), dtype=torch.float64)
    for i in range(1, T + 1):
        noise = Noise(range(i * 10_000, i * 10_000 + len(rows)))
        loss = VLB(T=T).at(denoiser, Batch(rows, {}), noise, torch.full((len(rows),), i))
        total += loss.detach() / T * math.log(2) * 2
    found = variational_bound(denoiser, rows, grid=grids.uniform(schedule, n), seeds=range(4000), variance=None)
    exact = (found.values - found.prior).mean()
    assert float(total.mean() - exact) == pytest.approx(0, abs=4 * float(total.std() + found.values.std()) / 4000**0.5)


def test_kl_of_a_step_by_hand():
    """At t = 2 / T of the linear schedule: the posterior's formulas of DDPM with beta-bar, written out."""
    T, share = 10, 0.3
    denoiser = model(share=share)
    x0 = LAW.sample(3, 4, dtype=torch.float64)
    noise, step = Noise(range(3)), torch.tensor([2, 2, 2])
    bar_t, bar_s = (VPLinear()(i / T)[0] ** 2 for i in (2, 1))
    beta = 1 - bar_t / bar_s
    tilde = beta * (1 - bar_s) / (1 - bar_t)
    x = bar_t**0.5 * x0 + (1 - bar_t) ** 0.5 * noise.like(x0, "eps")
    clean = LAW.denoiser(VPLinear())(x, 2 / T)
    gap = bar_s**0.5 * beta / (1 - bar_t) * (clean - x0)
    log_p = share * math.log(beta) + (1 - share) * math.log(tilde)
    kl = 0.5 * (log_p - math.log(tilde) + (tilde + gap**2) / math.exp(log_p) - 1)
    found = VLB(T=T).at(denoiser, Batch(x0, {}), noise, step)
    torch.testing.assert_close(found, kl.mean(1) * T / math.log(2), rtol=1e-6, atol=1e-9)
    q = posterior(bar_t**0.5, (1 - bar_t) ** 0.5, bar_s**0.5, (1 - bar_s) ** 0.5)
    assert (q.beta, q.tilde) == pytest.approx((beta, tilde))


def test_hybrid_teaches_the_variance_and_not_the_mean():
    denoiser, batch, noise = model(), Batch(LAW.sample(32, 2, dtype=torch.float64), {}), Noise(range(32))
    net = denoiser.net

    def slopes(objective):
        return torch.autograd.grad(objective(denoiser, batch, noise).mean(), (net.shift, net.share), allow_unused=True)

    vlb, hybrid = VLB(T=50), Hybrid(vlb=VLB(T=50))
    bound, mixed = slopes(vlb), slopes(hybrid)
    step = torch.ceil(noise.uniform("time") * 50).long()
    error = vlb.parts(denoiser, batch, noise, step, detach=True)[1].mean()
    (simple,) = torch.autograd.grad(error, net.shift)
    torch.testing.assert_close(mixed[0], simple, rtol=0, atol=0)
    torch.testing.assert_close(mixed[1], 0.001 * bound[1])
    assert abs(float(bound[0])) > 1.0
    both = vlb(denoiser, batch, noise) * 0.001 + vlb.parts(denoiser, batch, noise, step, detach=True)[1]
    torch.testing.assert_close(hybrid(denoiser, batch, noise), both)


def test_optimal_share_has_no_gradient():
    """For data N(0, I) beta is the optimal variance at every step: v = 1 is a stationary point, v < 1 is not."""
    law = Gaussian([0.0, 0.0], 1.0)
    batch, noise = Batch(law.sample(4000, 3, dtype=torch.float64), {}), Noise(range(4000))
    slopes = {}
    for share in (1.0, 0.6):
        denoiser = model(VPCosine(), law=law, share=share)
        loss = VLB(T=20).at(denoiser, batch, noise, torch.full((4000,), 9))
        (slopes[share],) = torch.autograd.grad(loss.mean(), denoiser.net.share)
    assert abs(float(slopes[1.0])) < 0.1 * abs(float(slopes[0.6]))
    assert float(slopes[0.6]) < 0


def filled(importance, denoiser, batch, rounds):
    memory = importance.memory()
    for i in range(rounds):
        noise = Noise(range(1000 * i, 1000 * i + len(batch.x0)))
        loss = importance.recalling(memory)(denoiser, batch, noise).detach()
        importance.record(memory, noise, loss)
    return memory


def test_importance_keeps_the_last_losses_and_is_unbiased():
    batch = Batch(LAW.sample(64, 5, dtype=torch.float64), {})
    denoiser, importance = model(), Importance(objective=VLB(T=6), keep=4)
    memory = filled(importance, denoiser, batch, 1)
    assert torch.equal(importance.chances(importance.memory()), torch.full((6,), 1 / 6, dtype=torch.float64))
    memory = filled(importance, denoiser, batch, 12)
    p = importance.chances(memory)
    root = memory["losses"].square().mean(1).sqrt()
    torch.testing.assert_close(p, 0.999 * root / root.sum() + 0.001 / 6)
    assert float(p.max()) > 2 * float(p.min())
    # expectation over the draw of t, exactly: sum_t p_t (L_t / (T p_t)) = mean_t L_t
    noise = Noise(range(9000, 9064))
    fixed = {t: importance.objective.at(denoiser, batch, noise, torch.full((64,), t)).detach() for t in range(1, 7)}
    step, weight = importance.steps(memory, noise)
    found = importance.recalling(memory)(denoiser, batch, noise).detach()
    rows = torch.stack([fixed[int(t)][i] for i, t in enumerate(step)])
    torch.testing.assert_close(found, rows * weight)
    torch.testing.assert_close(weight, 1 / (6 * p[step - 1]))
    many = Noise(range(40_000))
    counts = torch.bincount(importance.steps(memory, many)[0], minlength=7)[1:] / 40_000
    torch.testing.assert_close(counts.double(), p, rtol=0, atol=0.012)


def test_record_undoes_the_weight_and_forgets_the_oldest():
    importance = Importance(objective=VLB(T=1), keep=2)
    memory = importance.memory()
    for losses in ([1.0], [2.0, 3.0], [math.nan]):
        importance.record(memory, Noise(range(len(losses))), torch.tensor(losses))
    assert sorted(memory["losses"][0].tolist()) == [2.0, 3.0]
    assert memory["count"].tolist() == [3]


def test_what_is_recorded_is_the_loss_without_its_weight():
    batch = Batch(LAW.sample(64, 5, dtype=torch.float64), {})
    importance = Importance(objective=VLB(T=6), keep=4)
    memory = filled(importance, model(), batch, 12)
    before, noise = memory["count"].clone(), Noise([77])
    step, weight = importance.steps(memory, noise)
    assert abs(float(weight) - 1) > 0.05
    importance.record(memory, noise, 2.5 * weight)
    row = memory["losses"][int(step) - 1]
    assert float(row[int(before[int(step) - 1]) % 4]) == pytest.approx(2.5)


def test_fewer_losses_vary_less_with_importance():
    """What it is for: the weighted loss of L_vlb varies less than that of uniform steps."""
    batch = Batch(LAW.sample(256, 7, dtype=torch.float64), {})
    denoiser, importance = model(), Importance(objective=VLB(T=40))
    memory = filled(importance, denoiser, batch, 12)
    noise = Noise(range(5000, 5256))
    uniform = importance.objective(denoiser, batch, noise).detach()
    weighted = importance.recalling(memory)(denoiser, batch, noise).detach()
    assert float(weighted.std()) < 0.7 * float(uniform.std())


def trainer(path, steps, **more):
    torch.manual_seed(0)
    net = Small()
    denoiser = Preconditioned(net, VPCosine(), LearnedVariance(prediction=V()))
    config = TrainConfig(steps=steps, batch_size=16, lr=1e-2, ema=(), checkpoint_every=10, log_every=1, **more)
    objective = Importance(objective=Hybrid(vlb=VLB(T=5)), keep=3)
    assert isinstance(objective, Remembering)
    return Trainer(denoiser, objective, Tensors(LAW.sample(40, 1)), config, Run(path), quiet=True)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.cond = {}
        self.line = nn.Linear(3, 4)

    def forward(self, x, c_noise):
        return self.line(torch.cat([x, (c_noise / 1000).expand(len(x))[:, None]], 1))


def test_memory_is_resumed_bit_for_bit(tmp_path):
    whole, parted = (Run.create(tmp_path, name) for name in ("whole", "parted"))
    trainer(whole.path, 40).train()
    for steps in (7, 23, 40):
        trainer(parted.path, steps).train()
    for part in ("model", "optim", "memory"):
        a, b = (latest_checkpoint(run.checkpoints).read(part) for run in (whole, parted))
        assert all(torch.equal(a[name], b[name]) for name in a), part
    assert int(a["count"].sum()) == 40 * 16
    joined = Run.create(tmp_path, "joined")
    trainer(joined.path, 40, accumulation=2).train()
    c = latest_checkpoint(joined.checkpoints).read("memory")
    torch.testing.assert_close(c["losses"], a["losses"], rtol=1e-3, atol=1e-5)


def test_what_says_no_variance_is_refused():
    plain = Preconditioned(Net(VPLinear()), VPLinear(), Eps())
    with pytest.raises(InputError, match="prediction is LearnedVariance"):
        VLB(T=5)(plain, Batch(LAW.sample(2, 1), {}), Noise(range(2)))
    with pytest.raises(InputError, match="twice the channels"):
        LearnedVariance().halves(torch.zeros(2, 3))


def test_configurations():
    for objective in (VLB(T=7, bin=0.1), Hybrid(), Importance(objective=Hybrid(scale=0.1))):
        assert from_config(to_config(objective)) == objective
