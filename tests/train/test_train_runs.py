"""The run folder: what it holds, that it is never another run's, and that its metrics are told once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from train_toy import config, trainer

from sfumato.core import InputError, from_config
from sfumato.train import Run, TrainConfig, read_metrics
from sfumato.train.runs import Metrics


def test_the_folder_holds_what_a_run_is_made_of(tmp_path):
    run = Run.create(tmp_path, "toy", {"recipe": "points", "width": 16})
    trainer(run, steps=20).train()
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", run.path.name)
    held = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    step = {f"checkpoints/step-00000020/{n}" for n in ("state.json", "manifest.json")}
    step |= {f"checkpoints/step-00000020/{n}.safetensors" for n in ("model", "ema", "optim")}
    assert (
        held >= {"config.json", "command.txt", "env.json", "metrics.jsonl", "summary.md", "checkpoints/LATEST"} | step
    )
    assert from_config(run.config["train"]) == config(steps=20)
    assert run.config["recipe"] == {"recipe": "points", "width": 16}
    assert {"torch", "python", "threads"} <= json.loads((run.path / "env.json").read_text()).keys()
    assert "20 steps" in (run.path / "summary.md").read_text()
    boards = list((run.path / "tb").glob("events*"))
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        assert not boards
    else:
        assert boards


def test_runs_never_share_a_folder_and_the_newest_is_found(tmp_path):
    assert Run.newest(tmp_path, "toy") is None
    paths = {Run.create(tmp_path, "toy").path for _ in range(20)}
    assert len(paths) == 20
    newest = Run.newest(tmp_path, "toy")
    assert newest is not None
    assert newest.path == max(paths)
    for name in ("../x", "", ".hidden", "a/b", "a b"):
        with pytest.raises(InputError, match="a run cannot be called"):
            Run.create(tmp_path, name)
    with pytest.raises(InputError, match="there is no run at"):
        Run(tmp_path / "none")


def test_metrics_behind_the_checkpoint_and_a_torn_line_are_cut(tmp_path):
    run = Run.create(tmp_path, "toy")
    metrics = Metrics(run, 0)
    for step in range(1, 6):
        metrics.write({"step": step, "loss": step / 3})
    metrics.close()
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4, 5]
    again = Metrics(run, 3)
    again.write({"step": 4, "loss": 9.0})
    again.close()
    assert read_metrics(run) == [{"step": s, "loss": s / 3} for s in (1, 2, 3)] + [{"step": 4, "loss": 9.0}]


def test_configuration_round_trip_and_refusals():
    settings = config(ema=(1.0, 2.0), precision="bf16")
    from sfumato.core import to_config

    assert from_config(json.loads(json.dumps(to_config(settings)))) == settings
    for bad, words in [
        ({"steps": 0}, r"TrainConfig\.steps=0"),
        ({"workers": -1}, r"TrainConfig\.workers=-1"),
        ({"lr": 0.0}, r"TrainConfig\.lr=0\.0"),
        ({"clip": float("nan")}, r"clip=nan"),
        ({"precision": "fp8"}, r"precision='fp8' must be one of fp32, bf16, fp16"),
    ]:
        with pytest.raises(InputError, match=words):
            config(**bad)
    with pytest.raises(InputError, match="has no field 'batchsize'; did you mean 'batch_size'"):
        from_config({"kind": "TrainConfig", "steps": 1, "batchsize": 3})
    assert isinstance(settings, TrainConfig)


def test_importing_the_room_imports_no_extra():
    code = (
        "import sys, sfumato.train; "
        "print([m for m in ('lightning_fabric', 'tensorboard', 'rich', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert out.stdout.strip() == "[]"
