"""The demo's table can tell: real scans pass its bars, noise fails them, and copies are seen to be copies."""

from __future__ import annotations

import json

import pytest
import torch

from sfumato.core import Noise
from sfumato.demo.command import load
from sfumato.demo.report import Page, render, results
from sfumato.demo.scores import Data, fitted_gaussian, score
from sfumato.measure.classifier import ClassifierConfig, fit_classifier


@pytest.fixture(scope="module")
def data():
    return load()


@pytest.fixture(scope="module")
def classifier(data):
    return fit_classifier(data.train, data.train_y, ClassifierConfig(classes=10), steps=250)


def rows(samples, asked, data, classifier):
    table, near = score(samples, asked, data, classifier)
    return {row.name: row for row in table}, near


def test_the_classifier_reads_held_out_scans_and_depends_on_its_seed_alone(data, classifier):
    assert classifier.accuracy(data.held_out, data.held_out_y) > 0.95
    small = ClassifierConfig(classes=10, channels=8)
    a, b, c = (fit_classifier(data.train, data.train_y, small, seed=s, steps=3) for s in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.out.weight, c.out.weight)


def test_copies_of_the_scans_reach_the_bars_but_are_seen_to_be_copies(data, classifier):
    table, near = rows(data.train, data.train_y, data, classifier)
    assert all(row.passed for row in table.values() if row.passed is not None)
    assert float(near.copies) == 1.0
    assert float(near.closer) > near.critical


def test_the_gaussian_of_the_pixels_misses_every_bar(data, classifier):
    n = 1200
    x = fitted_gaussian(data.train, n, seed=5)
    table, _ = rows(x, torch.arange(n) % 10, data, classifier)
    barred = [row for row in table.values() if row.passed is not None]
    assert len(barred) == 3
    assert not any(row.passed for row in barred)
    for row in barred[1:]:  # the trivial column is such a Gaussian too
        assert row.model == pytest.approx(row.trivial, rel=0.3)


def test_the_fitted_gaussian_has_the_pixels_moments():
    x = Noise(range(4000)).normal((4000, 1, 2, 2), "x") * 0.1
    x[:, 0, 0, 0] += 0.3 * x[:, 0, 1, 1]
    y = fitted_gaussian(x, 4000, seed=0).flatten(1)
    assert torch.allclose(torch.cov(y.T), torch.cov(x.flatten(1).T), atol=1.2e-3)
    assert torch.allclose(y.mean(0), x.flatten(1).mean(0), atol=8e-3)


def test_the_page_holds_the_figures_and_nothing_from_outside(data, classifier):
    few = Data(train=data.train[:200], train_y=data.train_y[:200], held_out=data.held_out, held_out_y=data.held_out_y)
    table, near = score(data.train[200:600], data.train_y[200:600], few, classifier)
    page = Page(
        facts={"a & b": "<c>"}, grid="data:,g", strip="data:,s", loss="<svg/>", neighbours="data:,n",
        distances="<svg/>", rows=table, memorisation=near, commands=["sfumato sample x"], settings="{}",
    )  # fmt: skip
    text = render(page)
    assert "a &amp; b: <b>&lt;c&gt;</b>" in text
    assert "http" not in text
    assert f"{table[0].model:.3f}" in text
    kept = json.loads(json.dumps(results(table, near)))
    assert [row["name"] for row in kept["rows"]] == [row.name for row in table]


@pytest.mark.slow
def test_the_demo_reaches_its_bars(tmp_path, capsys):
    from sfumato.cli import main

    assert main(["demo", "--out", str(tmp_path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["reached"]
    assert summary["memorisation"]["closer"] <= summary["memorisation"]["critical"]
