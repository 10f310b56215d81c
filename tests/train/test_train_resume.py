"""A run that was stopped, killed, and resumed again and again ends bit for bit as one that never was."""

from __future__ import annotations

import signal

import pytest
import torch
from train_toy import Child, digest, trainer

from sfumato.train import Run, latest_checkpoint, read_metrics

STEPS = 40


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path, "toy")


def uninterrupted(tmp_path, **changes) -> str:
    run = Run.create(tmp_path, "whole")
    trainer(run, **changes).train()
    assert len(read_metrics(run)) == STEPS
    return digest(run)


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (0, 2), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_three_kills_in_a_row_change_nothing(tmp_path, run, workers, accumulation):
    # 37 rows and batches of 8: step 13 is in epoch 2, and every kill but the first is in a later epoch
    changes = {"accumulation": accumulation, "workers": workers}
    expected = uninterrupted(tmp_path, accumulation=accumulation)
    for at in (13, 24, 37):
        assert Child(run, pause=0.002, **changes).hit(at, signal.SIGKILL) == -9
    assert Child(run, **changes).end() == 0
    assert digest(run) == expected


def test_sigterm_finishes_the_step_saves_and_exits_143(tmp_path, run):
    expected = uninterrupted(tmp_path)
    for at in (3, 17, 33):
        assert Child(run, pause=0.05).hit(at, signal.SIGTERM) == 143
        found = latest_checkpoint(run.checkpoints)
        assert found is not None
        assert at + 1 <= found.step <= at + 3  # not a multiple of checkpoint_every: saved because it was asked to stop
        torch.rand(7)  # the process's own randomness plays no part
    assert Child(run).end() == 0
    assert digest(run) == expected


def test_ctrl_c_exits_130_and_a_second_signal_at_once(run):
    assert Child(run, pause=0.05).hit(5, signal.SIGINT) == 130
    assert Child(run, pause=0.5).hit(8, signal.SIGTERM, signal.SIGTERM) == 143
    found = latest_checkpoint(run.checkpoints)
    assert found is not None
    assert found.step <= 8  # the second signal did not wait for a save
