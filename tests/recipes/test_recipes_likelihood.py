"""Bits per dimension of a pipeline: the figure is that of the closed form, and Ctrl-C keeps what is done."""

import json
import math
from dataclasses import replace

import pytest
import torch

import sfumato as sf
from sfumato.cli import main
from sfumato.core import V, VPLinear
from sfumato.data import Digits, Tensors
from sfumato.pipeline import Pipeline, Points
from sfumato.recipes import RECIPES, bits_per_dim, override
from sfumato.recipes import likelihood as module
from sfumato.testing import exact_network
from sfumato.testing.table import PLANE

ROWS = 300


def exact():
    denoiser = exact_network(PLANE, VPLinear(), V())
    return Pipeline(denoiser=denoiser, shape=(2,), modality=Points()), Tensors(PLANE.sample(ROWS, 3))


def test_points_have_the_bits_of_their_density():
    pipe, data = exact()
    seen = []
    figure = bits_per_dim(pipe, data, ROWS, say=lambda *what: seen.append(what))
    truth = -PLANE.log_prob(data.rows.x0).mean() / (2 * math.log(2))
    assert figure.value == pytest.approx(float(truth), abs=4 * 0.02)
    spread = PLANE.log_prob(data.rows.x0).std() / (2 * math.log(2) * ROWS**0.5)
    assert float(spread) <= figure.error < 2 * float(spread)
    assert figure.n == ROWS
    assert "of the density" in figure.note
    assert seen[0] == ("likelihood", 0, ROWS)
    assert seen[-1] == ("likelihood", ROWS, ROWS)
    assert bits_per_dim(pipe, data, ROWS).value == figure.value
    assert bits_per_dim(pipe, data, ROWS, seed=1).value != figure.value


def test_interrupt_gives_what_is_done(monkeypatch):
    pipe, data = exact()

    def say(what, done, of):
        if done > module.CHUNK + 20:
            raise KeyboardInterrupt

    figure = bits_per_dim(pipe, data, ROWS, say=say)
    assert figure.n == module.CHUNK
    assert figure.note.startswith(f"stopped before the other {ROWS - module.CHUNK} rows")
    whole = bits_per_dim(pipe, Tensors(data.rows.x0[: module.CHUNK]), ROWS)
    assert whole.value == figure.value
    with pytest.raises(KeyboardInterrupt):
        bits_per_dim(pipe, data, ROWS, say=lambda what, done, of: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(sf.InputError, match="trained on"):
        bits_per_dim(pipe, Digits(), 2)


def test_command_line(tmp_path, capsys, monkeypatch):
    words = ["--net.channels", "8", "--net.groups", "2", "--net.head_width", "8"]
    recipe = override(RECIPES["digits"](), words)
    folder = str(recipe.pipeline(recipe.denoiser()).save(tmp_path / "m"))
    assert main(["evaluate", folder, "--data", "digits", "--likelihood", "-n", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (figure,) = found["model"]
    assert figure["name"] == "bits_per_dim"
    assert figure["n"] == 2
    assert "an upper bound: dequantised in bins of 0.125" in figure["note"]
    stopped = replace(sf.from_config(figure), note="stopped before the other 1 rows; x")
    monkeypatch.setattr("sfumato.recipes.bits_per_dim", lambda *a: stopped)
    assert main(["evaluate", folder, "--data", "digits", "--likelihood", "-n", "2"]) == 130
    assert "stopped before" in capsys.readouterr().out


def test_bins_are_the_distance_of_levels():
    assert torch.diff(Digits().rows.x0.unique()).min() == Digits().bin
    assert Tensors(torch.zeros(2, 2)).bin is None
