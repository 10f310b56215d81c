"""A codebook that is learned: moving averages in closed form, k-means, dead codes, gradients straight through."""

import math

import torch
from test_codecs_kl import normal, scrambled

import sfumato as sf
from sfumato.codecs import VQModelConfig
from sfumato.codecs.learning import Coding, Follower, Quantising, usage

TINY = VQModelConfig(widths=(8, 16), layers=1, groups=4, codes=6, code=3)
NOISE = sf.Noise([5])


def nearest(places, codebook):
    return torch.cdist(places, codebook).argmin(1)


def test_without_memory_a_step_is_one_of_k_means():
    places, codebook = normal(200, 3), normal(6, 3, seed=2)
    codes = nearest(places, codebook)
    moved, book = codebook.clone(), Follower(6, 3)
    book.follow(moved, places, codes, NOISE, decay=0.0, smooth=0.0, revive=0.0)
    for k in range(6):
        assert torch.allclose(moved[k], places[codes == k].mean(0), atol=1e-5)


def test_the_moving_averages_in_closed_form():
    codebook, book, decay, smooth = normal(4, 2), Follower(4, 2), 0.9, 0.3
    counts, sums = torch.full((4,), 5.0), normal(4, 2, seed=3)
    book.counts.copy_(counts)
    book.sums.copy_(sums)
    for step in range(3):
        places = normal(20, 2, seed=10 + step)
        codes = nearest(places, codebook)
        counts = decay * counts + (1 - decay) * torch.bincount(codes, minlength=4)
        sums = decay * sums + (1 - decay) * torch.stack([places[codes == k].sum(0) for k in range(4)])
        book.follow(codebook, places, codes, NOISE, decay=decay, smooth=smooth, revive=0.0)
        total = counts.sum()
        expected = sums / ((counts + smooth) / (total + 4 * smooth) * total)[:, None]
        assert torch.allclose(codebook, expected, atol=1e-5)
        assert torch.allclose(book.counts, counts)


def test_dead_codes_take_places_of_the_batch_and_live_on():
    codebook, book, places = torch.full((5, 2), 100.0), Follower(5, 2), normal(40, 2)
    codebook[0] = 0.0
    book.counts.copy_(torch.tensor([8.0, 0.0, 0.0, 8.0, 0.0]))
    book.sums.copy_(codebook * 8)
    book.follow(codebook, places, torch.zeros(40, dtype=torch.int64), NOISE, decay=0.5, smooth=0.0, revive=0.05)
    revived = codebook[[1, 2, 4]]
    assert (revived[:, None] - places).abs().sum(2).min(1).values.max() < 1e-5  # each is one of the latents,
    assert torch.cdist(revived, revived).fill_diagonal_(1.0).min() > 1e-3  # and they are three different ones
    assert torch.allclose(book.counts[[1, 2, 4]], torch.full((3,), 8.0))  # with an even share
    assert torch.allclose(codebook[3], torch.full((2,), 100.0))  # 4 of 8 are above 5 % of an even share: not dead yet


def test_what_is_not_finite_moves_nothing():
    codebook, book, places = normal(5, 2), Follower(5, 2), normal(40, 2)
    book.follow(codebook, places, nearest(places, codebook), NOISE, decay=0.5, smooth=0.0, revive=0.0)
    before = codebook.clone(), book.counts.clone()
    places[3, 1] = math.nan
    book.follow(codebook, places, torch.zeros(40, dtype=torch.int64), NOISE, decay=0.5, smooth=0.0, revive=0.0)
    assert torch.equal(codebook, before[0])
    assert torch.equal(book.counts, before[1])


def test_the_loss_and_its_gradient_go_straight_through():
    objective = Quantising(beta=0.7, variance=0.5)
    model = Coding.start(TINY, objective)
    codec = scrambled(model.codec)
    model.eval()  # the codebook stays
    x = torch.tanh(normal(3, 3, 8, 8))
    loss = objective(model, sf.Batch(x, {}), sf.Noise(range(3)))
    z = codec.posterior(x)[0].detach().requires_grad_()
    e = codec.lookup(codec.indices(z.detach())).detach().requires_grad_()
    near = (x - codec.render(e)).square().mean((1, 2, 3)) / 0.5
    committed = 0.7 * (z - e.detach()).square().mean((1, 2, 3))
    assert torch.allclose(loss, near + committed, rtol=1e-5)
    to_e, to_z = torch.autograd.grad((near + committed).mean(), (e, z))
    through = torch.autograd.grad(loss.mean(), codec.coded.weight)[0]
    expected = torch.autograd.grad(codec.posterior(x)[0], codec.coded.weight, to_e + to_z)[0]
    assert torch.allclose(through, expected, rtol=1e-4, atol=1e-7)
    assert not codec.codebook.weight.requires_grad


def test_training_moves_the_codebook_to_the_latents_and_evaluation_does_not():
    objective, x = Quantising(revive=0.5), torch.tanh(normal(4, 3, 8, 8))
    model, batch, noise = Coding.start(TINY, objective), sf.Batch(x, {}), sf.Noise(range(4))
    start = model.codec.codebook.weight.clone()
    model.eval()
    objective(model, batch, noise)
    assert torch.equal(model.codec.codebook.weight, start)
    model.train()
    objective(model, batch, noise)
    z = model.codec.posterior(x)[0].detach().movedim(1, -1).flatten(0, -2)
    far = torch.cdist(z, model.codec.codebook.weight).min(1).values.mean()
    assert far < 0.5 * torch.cdist(z, start).min(1).values.mean()


def test_usage():
    used, perplexity = usage(torch.tensor([[0, 0], [1, 1]]), 8)
    assert used == 0.25
    assert math.isclose(perplexity, 2.0)
    assert math.isclose(usage(torch.arange(8), 8)[1], 8.0)
