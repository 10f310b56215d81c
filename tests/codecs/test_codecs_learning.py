"""What trains an autoencoder, part by part: closed forms, gradients that go where they belong, and exact resumption."""

import math

import pytest
import torch
from test_codecs_kl import normal, scrambled

import sfumato as sf
from sfumato.codecs import (
    AutoencoderKLConfig,
    AutoencoderTinyConfig,
    DVAEConfig,
    VAEConfig,
    VQModelConfig,
    load_codec,
    save_codec,
)
from sfumato.codecs.learning import (
    Adversary,
    Coding,
    Distilling,
    KLAutoencoding,
    PatchCriticConfig,
    PerceptualConfig,
    Quantising,
    Ramp,
    latent_statistics,
    normalised,
)
from sfumato.codecs.learning.critic import adaptive, generator, hinge, judged, last
from sfumato.data import Tensors
from sfumato.train import Run, TrainConfig, Trainer, latest_checkpoint

KL = AutoencoderKLConfig(widths=(8, 16), layers=1, groups=4, middle=False, scale=1.0)
CRITIC = PatchCriticConfig(width=8, layers=1, groups=4)
EYE = PerceptualConfig(widths=(4, 8))


def pictures(rows=4, size=16):
    return torch.tanh(normal(rows, 3, size, size, seed=3))


def test_hinge_losses_in_closed_form():
    real, fake = torch.tensor([[[[2.0, 0.5]]], [[[-1.0, 1.0]]]]), torch.tensor([[[[-3.0, 0.0]]], [[[1.0, -0.5]]]])
    assert torch.allclose(hinge(real, fake), torch.tensor([0.5 * (0.25 + 0.5), 0.5 * (1.0 + 1.25)]))
    assert torch.allclose(generator(fake), torch.tensor([1.5, -0.25]))


def test_the_adaptive_weight_is_the_ratio_of_gradients():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    near, fooled = (w**2).sum() / 2, (w * torch.tensor([0.3, 0.4])).sum()  # gradients w, of norm 5, and of norm 0.5
    found = adaptive(near, fooled, w)
    assert math.isclose(float(found), 5 / (0.5 + 1e-4), rel_tol=1e-6)
    assert not found.requires_grad
    assert float(adaptive(near, (w * 0.0).sum(), w)) == 1e4  # clamped: 5 / 1e-4


def test_the_last_layer_is_the_one_that_makes_pixels():
    codec = KL.build()
    assert last(codec) is codec.decoder.out.conv.weight


def test_the_critic_is_not_moved_by_what_moves_the_codec():
    critic, x = CRITIC.build(), pictures(2).requires_grad_()
    seen = judged(critic, x)
    assert torch.equal(seen, critic(x))
    seen.mean().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.parameters())


def test_one_backward_gives_codec_and_critic_their_own_gradients():
    """The gradients of the sum are those of two separate losses, as two optimisers would see them."""
    objective = KLAutoencoding(eye=EYE, adversary=Adversary(critic=CRITIC, start=0, weight=0.5))
    model, x, noise = Coding.start(KL, objective), pictures(), sf.Noise(range(4))
    objective(model, sf.Batch(x, {}), noise).mean().backward()
    learner = model.net
    got = {n: p.grad.clone() for n, p in learner.named_parameters()}
    codec, critic = learner.codec, learner.parts["critic"]
    mean, deviation = codec.posterior(x)
    made = codec.decode(mean + deviation * noise.like(mean, "posterior"))
    near = ((x - made).abs().mean((1, 2, 3)) + learner.parts["eye"](x, made)).mean()  # s = 0 at first
    fooled = -critic(made).mean()
    first, second = (torch.autograd.grad(v, last(codec), retain_graph=True)[0].norm() for v in (near, fooled))
    kl = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log()).sum((1, 2, 3)).mean()
    of_codec = near + 1e-6 * kl / x[0].numel() + 0.5 * float(first / (second + 1e-4)) * fooled
    names = [n for n, _ in codec.named_parameters()]
    for name, grad in zip(names, torch.autograd.grad(of_codec, list(codec.parameters())), strict=True):
        assert torch.allclose(got[f"codec.{name}"], grad, rtol=1e-3, atol=1e-6), name
    of_critic = 0.5 * ((1 - critic(x)).relu().mean() + (1 + critic(made.detach())).relu().mean())
    names = [n for n, _ in critic.named_parameters()]
    for name, grad in zip(names, torch.autograd.grad(of_critic, list(critic.parameters())), strict=True):
        assert torch.allclose(got[f"parts.critic.{name}"], grad, rtol=1e-3, atol=1e-6), name
    # d / ds of distance e^-s + s at s = 0
    assert torch.allclose(got["parts.scale.value"], 1 - near, rtol=1e-4)


def test_the_adversary_waits_for_its_step():
    objective = KLAutoencoding(eye=EYE, adversary=Adversary(critic=CRITIC, start=2))
    model, batch, noise = Coding.start(KL, objective), sf.Batch(pictures(), {}), sf.Noise(range(4))
    without = KLAutoencoding(eye=EYE, adversary=None)(model, batch, noise)
    memory = objective.memory()
    told = objective.recalling(memory)
    for _ in range(2):
        assert torch.equal(told(model, batch, noise), without)
        objective.record(memory, noise, without)
    assert (told(model, batch, noise) != without).all()


def test_a_ramp_is_half_a_cosine():
    ramp = Ramp(start=1.0, end=1 / 16, steps=100)
    assert ramp(0) == 1.0
    assert math.isclose(ramp(50), (1 + 1 / 16) / 2)
    assert math.isclose(ramp(25), 1 / 16 + (15 / 16) * (1 + math.cos(math.pi / 4)) / 2)
    assert math.isclose(ramp(100), 1 / 16)
    assert ramp(101) == ramp(10_000) == ramp(100)


def test_the_perceptual_distance():
    eye, x = EYE.build(), pictures()
    assert torch.equal(eye(x, x), torch.zeros(4))
    assert torch.allclose(eye(x, x + 0.3)[:1], torch.zeros(1), atol=1e-2)  # nothing but brightness, edges apart
    y = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert torch.allclose(eye(x, y), eye(y, x))
    assert (eye(x, y) > eye(x, 0.5 * (x + y))).all()
    assert torch.equal(eye(x, y)[1:3], eye(x[1:3], y[1:3]))
    assert not list(eye.parameters())
    three = PerceptualConfig().build()
    for side in (17, 18):
        small = torch.zeros(1, 3, side, side)
        if side < 18:
            with pytest.raises(sf.InputError, match="need pictures of 18 pixels"):
                three(small, small)
        else:
            assert float(three(small, small)) == 0.0
    assert torch.equal(EYE.build().filter0, eye.filter0)  # of the seed alone


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (KL, KLAutoencoding(eye=EYE, adversary=Adversary(critic=CRITIC, start=3))),
        (
            VQModelConfig(widths=(8, 16), layers=1, groups=4, codes=40),
            Quantising(eye=EYE, adversary=Adversary(critic=CRITIC, start=6), revive=0.2),
        ),
    ],
)
def test_a_resumed_run_is_the_same_to_the_bit(config, objective, tmp_path):
    """Weights, critic, codebook, its sums, the step that the adversary waits for, the moments: all of it."""

    def trained(run, stops):
        for steps in stops:
            settings = TrainConfig(
                steps=steps, batch_size=4, accumulation=2, lr=1e-3, ema=(20.0,), checkpoint_every=100, log_every=1
            )
            Trainer(Coding.start(config, objective), objective, Tensors(pictures(9)), settings, run, quiet=True).train()
        found = latest_checkpoint(run.checkpoints)
        return {(part, n): t for part in ("model", "ema", "optim", "memory") for n, t in found.read(part).items()}

    whole = trained(Run.create(tmp_path, "whole"), [8])
    parts = trained(Run.create(tmp_path, "parts"), [2, 5, 8])
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert int(whole["memory", "step"]) == 8
    start = Coding.start(config, objective).net.state_dict()
    still = {n for n in start if torch.equal(start[n], whole["model", n])}
    # all that is not fixed has moved; at the critic's last bias real and false pull alike until a logit leaves [-1, 1]
    assert all("filter" in n or n.endswith("critic.blocks.5.bias") for n in still), still


def test_statistics_of_latents_are_those_of_draws_and_normalise():
    codec = scrambled(KL.build()).eval()
    x = pictures(64)
    with torch.no_grad():
        mean, std = latent_statistics(codec, x.split(16))
        z = torch.cat([codec.encode(x, sf.Noise(range(64 * i, 64 * i + 64))) for i in range(20)]).double()
        assert torch.allclose(mean, z.mean((0, 2, 3)), atol=0.03 * float(std.max()))
        assert torch.allclose(std, z.transpose(0, 1).flatten(1).std(1), rtol=0.02)
        twin = normalised(codec, x.split(16))
        again = latent_statistics(twin, [x])
        assert torch.allclose(again[0], torch.zeros(4, dtype=torch.float64), atol=1e-5)
        assert torch.allclose(again[1], torch.ones(4, dtype=torch.float64), atol=1e-5)
        assert torch.allclose(twin.decode(twin.encode(x)), codec.decode(codec.encode(x)), atol=1e-4)
    with pytest.raises(sf.InputError, match="measured afterwards"):
        normalised(twin, [x])
    with pytest.raises(sf.InputError, match="at least one picture"):
        latent_statistics(codec, [])


def test_a_codec_in_a_folder(tmp_path):
    codec = scrambled(KL.build()).eval()
    folder = save_codec(codec, tmp_path / "codec", torch.float16)
    half = load_codec(folder)
    assert half.config == codec.config
    assert next(half.parameters()).dtype == torch.float16
    again = load_codec(folder, torch.float32)
    assert all(torch.equal(a, b.half().float()) for a, b in zip(again.parameters(), codec.parameters(), strict=True))
    assert not again.training
    with pytest.raises(sf.InputError, match="not empty"):
        save_codec(codec, folder)
    (folder / "codec.json").write_text('{"kind": "VPCosine"}')
    with pytest.raises(sf.CheckpointError, match=r"codec\.json"):
        load_codec(folder)


def test_a_tiny_decoder_learns_from_its_teacher(tmp_path):
    folder = save_codec(scrambled(KL.build()), tmp_path / "teacher")
    objective = Distilling(teacher=str(folder), eye=EYE, encoder=2.0)
    model = Coding.start(AutoencoderTinyConfig(width=8, encoder=(1, 1), decoder=(1, 1)), objective)
    x, noise = pictures(), sf.Noise(range(4))
    loss = objective(model, sf.Batch(x, {}), noise)
    teacher, codec, eye = load_codec(folder), model.codec, EYE.build()
    with torch.no_grad():
        z = teacher.encode(x, noise)
        y, made = teacher.decode(z), codec.decode(z)
        expected = (y - made).abs().mean((1, 2, 3)) + eye(y, made) + 2 * (z - codec.encode(x)).square().mean((1, 2, 3))
    assert torch.allclose(loss, expected, rtol=1e-5)
    loss.mean().backward()
    assert all(p.grad is None for p in model.net.parts["teacher"].parameters())
    assert all(p.grad is not None for p in codec.parameters())
    with pytest.raises(sf.InputError, match="the teacher's latents have 4 channels on 1/2"):
        Coding.start(AutoencoderTinyConfig(width=8), objective)


def test_objectives_are_configurations_and_refuse_what_they_cannot_train():
    for objective in (KLAutoencoding(), Quantising(eye=EYE, adversary=Adversary()), Distilling(teacher="x")):
        assert sf.from_config(sf.to_config(objective)) == objective
    with pytest.raises(sf.InputError, match="measured afterwards"):
        Coding.start(AutoencoderKLConfig(widths=(8,), groups=4), KLAutoencoding())
    with pytest.raises(sf.InputError, match="trains a VQModel"):
        Coding.start(KL, Quantising())
    with pytest.raises(sf.InputError, match="at least 0"):
        Adversary(weight=-1.0)


def test_initial_weights_follow_from_the_seed_and_touch_no_global_state():
    before = torch.get_rng_state()
    first, second, other = (Coding.start(KL, KLAutoencoding(), seed).net.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize(
    "config",
    [
        KL,
        AutoencoderTinyConfig(width=8, encoder=(1, 1), decoder=(1, 1)),
        VQModelConfig(widths=(8, 16), layers=1, groups=4, codes=40),
        DVAEConfig(codes=7, width=16, multipliers=(1, 2), inner=8),
        VAEConfig(in_channels=3, size=16, widths=(8,), latent=4),
    ],
)
@torch.no_grad()
def test_what_only_decodes_is_told(config):
    """Encoding looks at none of the parts that are said to decode only, and at all of the others."""
    codec, x = scrambled(config.build(), scale=0.1), pictures()
    before, made = codec.posterior(x), codec.decode(codec.encode(x))
    for name, child in [*codec.named_children(), *((n, p) for n, p in codec.named_parameters() if "." not in n)]:
        parameters = [child] if isinstance(child, torch.nn.Parameter) else list(child.parameters())
        if not parameters:
            continue
        kept = [p.clone() for p in parameters]
        for p in parameters:
            p.mul_(-0.5).add_(0.3)
        after = codec.posterior(x)
        same = all(a is None or torch.equal(a, b) for a, b in zip(before, after, strict=True))
        logits = not isinstance(config, DVAEConfig) or torch.equal(codec.indices(after[0]), codec.indices(before[0]))
        assert (same and logits) == (name in codec.decoding), name
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)
    assert torch.equal(codec.decode(codec.encode(x)), made)
