"""The Trainer is the loop that one would write by hand, and it neither learns from nor saves what is not finite."""

from __future__ import annotations

import math
import os

import pytest
import torch
from train_toy import Net, config, denoiser, points, trainer

from sfumato.core import Batch, CheckpointError, Diverged, InputError, Noise, Preconditioned, fold
from sfumato.data import Loader
from sfumato.objectives import Denoising
from sfumato.train import Cosine, Run, Trainer, latest_checkpoint, read_metrics
from sfumato.train.checkpoint import locked
from sfumato.train.state import finite


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path, "toy")


def weights(made: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in made.model.net.parameters()])


def test_it_is_the_loop_written_by_hand():
    settings = config(steps=30, clip=0.5, rate=Cosine(warmup=4), ema=(40.0,), ema_ramp=0.5)
    made = Trainer(denoiser(dropout=0.0), Denoising(), points(), settings, quiet=True)
    result = made.train()

    by_hand = denoiser(dropout=0.0)
    parameters = list(by_hand.net.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0, foreach=False, fused=False)
    average = [p.detach().clone() for p in parameters]
    loader = Loader(points(), batch_size=8, seed=11)
    losses, norms = [], []
    for step in range(30):
        seed = fold(11, 0, step)
        loss = Denoising()(by_hand, loader.batch(step), Noise([seed + row for row in range(8)])).mean()
        optimiser.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 0.5, foreach=False)))
        warm = min(1.0, (step + 1) / 4)
        optimiser.param_groups[0]["lr"] = 1e-2 * warm * (1 + math.cos(math.pi * max(0, step - 4) / 26)) / 2
        optimiser.step()
        life = min(40.0, 8 * step * 0.5)
        decay = 0.5 ** (8 / life) if life else 0.0
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, parameters, strict=True)]
        losses.append(float(loss.detach()))

    assert min(norms) < 0.5 < max(norms), "the test must see both sides of the clip"
    torch.testing.assert_close([line["loss"] for line in made.history], losses, rtol=1e-5, atol=0)
    torch.testing.assert_close([line["grad_norm"] for line in made.history], norms, rtol=1e-4, atol=0)
    for ours, theirs in zip(made.model.net.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(made.state.ema.of().values(), average, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert result.steps == 30
    assert result.skipped == 0


def test_accumulation_changes_rounding_alone():
    runs = []
    for accumulation in (1, 4):
        made = Trainer(
            denoiser(dropout=0.0), Denoising(), points(), config(steps=20, accumulation=accumulation), quiet=True
        )
        made.train()
        runs.append(made)
    torch.testing.assert_close(weights(runs[0]), weights(runs[1]), rtol=1e-4, atol=1e-6)


def test_dropout_is_seeded_by_the_step_and_the_global_generator_is_left_alone():
    first = trainer(steps=5)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first.train()
    assert torch.equal(torch.random.get_rng_state(), before)
    second = trainer(steps=5)
    torch.manual_seed(2)
    second.train()
    assert torch.equal(weights(first), weights(second))
    without = Trainer(denoiser(dropout=0.0), Denoising(), points(), config(steps=5), quiet=True)
    without.train()
    assert not torch.equal(weights(first), weights(without))
    other = trainer(steps=5, seed=12)
    other.train()
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_follows_fp32_to_its_own_precision(precision):
    whole, half = trainer(steps=20), trainer(steps=20, precision=precision)
    scale = half.state.tally.scale = {"bf16": 1.0, "fp16": 1024.0}[precision]
    whole.train()
    half.train()
    gap = (weights(whole) - weights(half)).abs().max()
    assert 0 < gap < 0.02
    assert all(p.dtype == torch.float32 for p in half.model.net.parameters())
    assert half.state.tally.scale == scale


def test_an_fp16_overflow_halves_the_scale_and_is_no_failure():
    made = trainer(steps=6, precision="fp16", patience=0)
    made.state.tally.scale = 2.0**40  # 2^40 times a gradient of 0.1 is beyond fp16's 65504
    made.train()
    tally = made.state.tally
    assert tally.overflows >= 1
    assert tally.scale == 2.0 ** (40 - tally.overflows)
    assert tally.skipped == 0


def test_the_scale_doubles_after_two_thousand_calm_steps():
    made = trainer(steps=2, precision="fp16")
    made.state.tally.calm, made.state.tally.scale = 1999, 1024.0
    made.train()
    assert made.state.tally.scale == 2048.0


def test_compile_reaches_the_network(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: asked.append(type(self)))
    trainer(steps=1, compile=True).train()
    assert asked == [Net]


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one():
    plain, compiled = (
        Trainer(denoiser(dropout=0.0), Denoising(), points(), config(steps=5, compile=c), quiet=True)
        for c in (False, True)
    )
    plain.train()
    compiled.train()
    torch.testing.assert_close(weights(plain), weights(compiled), rtol=1e-4, atol=1e-6)


# What is not finite


class Poisoned(Denoising):
    """Denoising whose loss, or gradient, is not finite at some calls."""

    def poison(self, place: str, calls: set[int], value: float = math.nan):
        object.__setattr__(self, "plan", (place, calls, value, [0]))
        return self

    def __call__(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> torch.Tensor:
        place, calls, value, count = self.plan  # type: ignore[attr-defined]
        count[0] += 1
        struck = count[0] - 1 in calls
        if struck and place == "data":
            batch = Batch(batch.x0.clone().index_fill_(0, torch.tensor([3]), value), batch.cond)
        if struck and place == "weight":
            with torch.no_grad():
                denoiser.net.last.weight[0, 0] = value
        loss = super().__call__(denoiser, batch, noise)
        if struck and place == "loss":
            loss = loss * value
        if struck and place == "gradient":
            loss.register_hook(lambda g: g * value)
        return loss


PLACES = ("data", "loss", "gradient")


def no_bad_tensor_on_disk(run: Run) -> None:
    for path in run.checkpoints.glob("step-*"):
        found = latest_checkpoint(run.checkpoints)
        assert found is not None
        for part in ("model", "ema", "optim"):
            assert finite({part: found._replace(path=path).read(part)}) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", PLACES)
def test_a_bad_step_is_left_out_and_counted(run, place, value, precision):
    settings = config(steps=12, precision=precision, checkpoint_every=4)
    made = Trainer(denoiser(), Poisoned().poison(place, {5, 9}, value), points(), settings, run, quiet=True)
    made.state.tally.scale = 1024.0 if precision == "fp16" else 1.0
    seen: dict[int, torch.Tensor] = {}
    update = made.state.update

    def watch(loss: float) -> None:
        update(loss)
        seen[made.state.tally.step] = torch.cat(
            [weights(made), *(t.flatten() for t in made.state.ema.state().values())]
        )

    made.state.update = watch  # type: ignore[method-assign]
    result = made.train()
    for step in (5, 9):
        assert torch.equal(seen[step], seen[step - 1]), "a bad step must change nothing"
        assert not torch.equal(seen[step], seen[step + 1])
    tally = made.state.tally
    # in fp16 a gradient alone that is not finite is taken for an overflow of the scale
    assert (result.skipped, tally.overflows) == ((0, 2) if (place, precision) == ("gradient", "fp16") else (2, 0))
    assert result.rollbacks == 0
    no_bad_tensor_on_disk(run)


@pytest.mark.parametrize("place", [*PLACES, "weight"])
def test_too_many_in_a_row_go_back_to_the_last_checkpoint(run, place, capsys):
    bad = {13} if place == "weight" else {13, 14, 15}
    settings = config(steps=20, checkpoint_every=10, patience=2)
    made = Trainer(denoiser(), Poisoned().poison(place, bad), points(), settings, run, quiet=True)
    result = made.train()
    assert (result.steps, result.skipped, result.rollbacks) == (20, 3, 1)
    assert "not finite at step 16: back to step 10 with other noise" in capsys.readouterr().err
    assert [line["step"] for line in read_metrics(run)] == list(range(1, 21)), "no step is told twice"
    no_bad_tensor_on_disk(run)
    assert finite(made.state.parts()) is None


@pytest.mark.parametrize("part", ["model", "ema", "optim"])
def test_a_bad_tensor_is_never_saved(run, part, capsys):
    made = Trainer(denoiser(), Poisoned().poison("loss", set()), points(), config(steps=20), run, quiet=True)
    update = made.state.update

    def spoil(loss: float) -> None:
        update(loss)
        if made.state.tally.step == 9 and made.state.tally.rollbacks == 0:
            list(made.state.parts()[part].values())[1].flatten()[0] = math.inf

    made.state.update = spoil  # type: ignore[method-assign]
    assert made.train().rollbacks == 1
    assert f"{part}/" in capsys.readouterr().err
    no_bad_tensor_on_disk(run)


def test_too_many_roll_backs_are_divergence_with_exit_code_3(run):
    settings = config(steps=20, patience=2, rollbacks=2)
    made = Trainer(denoiser(), Poisoned().poison("loss", set(range(6, 999))), points(), settings, run, quiet=True)
    with pytest.raises(Diverged, match=r"at step 3 \(9 steps were left out, 2 roll-backs made\)") as caught:
        made.train()
    assert caught.value.exit_code == 3
    no_bad_tensor_on_disk(run)


def test_without_a_run_there_is_nothing_to_go_back_to():
    made = Trainer(denoiser(), Poisoned().poison("loss", set(range(3, 99))), points(), config(patience=1), quiet=True)
    with pytest.raises(Diverged):
        made.train()


# What a run refuses


def test_other_settings_on_a_run_are_refused_by_name_and_harmless_ones_are_not(run):
    trainer(run, steps=4).train()
    with pytest.raises(InputError, match=r"started with train\.lr=0\.01, not 0\.02"):
        trainer(run, steps=4, lr=2e-2).train()
    with pytest.raises(InputError, match=r"started with objective\.drop=0\.0, not 0\.5"):
        Trainer(denoiser(), Denoising(drop=0.5), points(), config(steps=4), run, quiet=True).train()
    with pytest.raises(InputError, match="started with data"):
        Trainer(denoiser(), Denoising(), points(38), config(steps=4), run, quiet=True).train()
    longer = trainer(run, steps=6, log_every=2, checkpoint_every=3, keep=1, workers=0)
    assert longer.train().steps == 6


def test_a_bounded_rate_cannot_be_made_longer(run):
    trainer(run, steps=4, rate=Cosine()).train()
    with pytest.raises(InputError, match=r"train\.steps=4, not 6"):
        trainer(run, steps=6, rate=Cosine()).train()


def test_another_network_does_not_fit_the_checkpoint(run):
    trainer(run, steps=2).train()
    wider = Trainer(denoiser(width=32), Denoising(), points(), config(steps=2), run, quiet=True)
    with pytest.raises(CheckpointError, match=r"'first\.weight' is torch\.float32 \[16, 3\], the configuration says"):
        wider.train()


def test_a_damaged_checkpoint_is_passed_over_in_a_line_and_the_run_ends_the_same(tmp_path, run, capsys):
    whole = Run.create(tmp_path, "whole")
    reference = trainer(whole, steps=30)
    reference.train()
    trainer(run, steps=20).train()
    path = run.checkpoints / "step-00000020" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    again = trainer(run, steps=30)
    again.train()
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "damaged checkpoint passed over" in said[0]
    assert torch.equal(weights(again), weights(reference))
    losses = [[(line["step"], line["loss"]) for line in read_metrics(r)] for r in (run, whole)]
    assert losses[0] == losses[1]


def test_a_second_writer_is_refused(run):
    with locked(run.path), pytest.raises(CheckpointError, match="being written by another process"):
        trainer(run, steps=2).train()


def test_a_disk_that_fails_while_training_is_a_checkpoint_error(run, monkeypatch):
    trainer(run, steps=10).train()
    real = os.rename

    def full(source, target):
        if "step-00000020" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; .* the earlier checkpoints are untouched"):
        trainer(run, steps=30).train()
    found = latest_checkpoint(run.checkpoints)
    assert found is not None
    assert found.step == 10


def test_batches_that_do_not_split_are_refused():
    with pytest.raises(InputError, match="batch_size=8 does not split into accumulation=3"):
        config(accumulation=3)


# What it shows


def test_windows_of_metrics_hold_the_mean_over_their_steps_and_survive_a_stop(tmp_path, run):
    every = Run.create(tmp_path, "every")
    trainer(every, steps=20).train()
    single = [line["loss"] for line in read_metrics(every)]
    trainer(run, steps=10, log_every=7, checkpoint_every=5).train()
    lines = read_metrics(run)
    assert [line["step"] for line in lines] == [7, 10]
    assert lines[0]["loss"] == pytest.approx(sum(single[:7]) / 7, rel=1e-12)
    assert lines[1]["loss"] == pytest.approx(sum(single[7:10]) / 3, rel=1e-12)


def test_samples_are_drawn_with_the_average_in_evaluation_mode(run):
    seen = []

    def samples(drawn: Preconditioned, path) -> None:
        assert not drawn.net.training
        assert not torch.is_grad_enabled()
        seen.append((path.name, drawn.net.first.weight.clone()))
        path.write_bytes(b"png")

    made = Trainer(
        denoiser(), Denoising(), points(), config(steps=10, sample_every=5), run, samples=samples, quiet=True
    )
    made.train()
    assert [name for name, _ in seen] == ["step-00000005.png", "step-00000010.png"]
    assert torch.equal(seen[-1][1], made.state.ema.of(400.0)["first.weight"])
    assert not torch.equal(seen[-1][1], made.model.net.first.weight)
    assert made.model.net.training


def test_progress_lines_say_step_loss_speed_and_time_left(capsys):
    Trainer(denoiser(), Denoising(), points(), config(steps=5)).train()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("step 5/5  loss ")
    assert "images/s" in line
    assert line.endswith("0:00 left")


def test_what_is_frozen_stays_and_the_rest_learns_as_it_would():
    made = trainer(steps=6, frozen=("first.*",))
    before = {n: p.detach().clone() for n, p in made.model.net.named_parameters()}
    made.train()
    for name, p in made.model.net.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("first."), name
        assert torch.equal(made.state.ema.of(40.0)[name], before[name]) == name.startswith("first."), name
    by_hand = denoiser()
    by_hand.net.first.requires_grad_(False)
    other = Trainer(by_hand, Denoising(), points(), config(steps=6), quiet=True)
    other.train()
    assert torch.equal(weights(made), weights(other))
    with pytest.raises(InputError, match=r"no parameter is named like 'frist\.\*'"):
        trainer(frozen=("frist.*",))
    with pytest.raises(InputError, match="leaves nothing to train"):
        trainer(frozen=("*",))
