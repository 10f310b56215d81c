"""The world as a data set: rows by number, whatever the batch; splits that share nothing; speed."""

import hashlib
import time

import pytest
import torch

import sfumato as sf
from sfumato import data
from sfumato.data.tableau import (
    EVALUATION,
    AltText,
    Descriptive,
    Law,
    Tableau,
    Terse,
    held_out,
    holds,
    paint,
    parse,
    sample_scenes,
)
from sfumato.data.tableau.dataset import WORLD


def _noise(n):
    return sf.Noise(range(n))


def test_rows_are_pictures_of_their_scenes_with_captions_that_hold():
    ds = Tableau(size=500, side=32)
    rows = list(range(0, 500, 3))
    batch = ds.batch(rows, _noise(len(rows)))
    assert batch.x0.shape == (len(rows), *ds.shape)
    assert batch.x0.dtype == torch.float32
    assert batch.x0.abs().max() <= 1
    assert torch.equal(batch.x0, paint(ds.scenes(rows), 32))
    captions = ds.captions(rows)
    assert data.text(batch.cond["caption"]) == [c.text for c in captions]
    assert holds([parse(t) for t in data.text(batch.cond["caption"])], ds.scenes(rows)).all()


def test_a_row_is_the_same_alone_in_any_batch_and_in_a_larger_set():
    ds = Tableau(size=300, side=32)
    whole = ds.batch(range(60), _noise(60))
    texts = data.text(whole.cond["caption"])
    for rows in ([7], [40, 7, 3], list(range(59, 20, -1))):
        for larger in (ds, Tableau(size=10_000, side=32)):
            part = larger.batch(rows, sf.Noise([9] * len(rows)))
            assert torch.equal(part.x0, whole.x0[rows])
            assert data.text(part.cond["caption"]) == [texts[i] for i in rows]


def test_styles_come_by_their_weights():
    ds = Tableau(size=3000, styles=(Terse(), Descriptive(), AltText()), weights=(1, 3, 0))
    texts = [c.text for c in ds.captions(range(2000))]
    assert sum(t.endswith(".") for t in texts) / 2000 == pytest.approx(0.75, abs=0.04)
    assert Tableau(styles=(), weights=()).batch([0, 1], _noise(2)).cond == {}


def test_dequantisation_is_noise_of_that_size_and_new_each_time():
    clean, noisy = Tableau(side=32), Tableau(side=32, dequantise=0.04)
    rows = list(range(20))
    added = noisy.batch(rows, _noise(20)).x0 - clean.batch(rows, _noise(20)).x0
    assert added.std().item() == pytest.approx(0.04, rel=0.02)
    assert abs(added.mean()) < 4 * 0.04 / added.numel() ** 0.5
    again = noisy.batch(rows, sf.Noise(range(50, 70))).x0 - clean.batch(rows, _noise(20)).x0
    assert abs((added * again).mean()) < 4 * 0.04**2 / added.numel() ** 0.5


def test_evaluation_shares_no_scene_with_training_and_held_out_shows_nothing_else():
    train, test = Tableau(size=400), Tableau(size=400, seed=EVALUATION)
    places = {tuple(row) for row in train.scenes(range(400)).x.tolist()}
    assert not places & {tuple(row) for row in test.scenes(range(400)).x.tolist()}
    kept = Tableau(size=200, seed=EVALUATION, law=Law(common=False, held_out=True)).scenes(range(200))
    assert held_out(kept.shape, kept.colour)[kept.present].all()
    seen = train.scenes(range(400))
    assert not held_out(seen.shape, seen.colour)[seen.present].any()


def test_a_tableau_is_its_own_configuration_and_every_setting_changes_its_fingerprint():
    changes = [{"size": 9}, {"side": 32}, {"seed": 5}, {"law": Law(twins=0.5)}, {"dequantise": 0.02}]
    changes += [{"styles": (Terse(),), "weights": (1.0,)}, {"weights": (0.2, 0.2, 0.2, 0.2, 0.1, 0.1)}]
    prints = {Tableau().fingerprint, *(Tableau(**change).fingerprint for change in changes)}
    assert len(prints) == len(changes) + 1
    for change in changes:
        ds = Tableau(**change)
        again = sf.from_config(sf.to_config(ds), data.Dataset)
        assert again == ds
        assert again.fingerprint == ds.fingerprint


def test_what_cannot_be_is_refused():
    for change, message in (
        ({"size": 0}, "size >= 1"),
        ({"side": 4}, "side >= 8"),
        ({"weights": (1.0,)}, "1 weights for 6 styles"),
        ({"weights": (0.0,) * 6}, "not all 0"),
        ({"dequantise": -0.1}, "standard deviation"),
    ):
        with pytest.raises(sf.InputError, match=message):
            Tableau(**change)
    with pytest.raises(sf.InputError, match="rows count from 0"):
        Tableau(size=10).batch([10], _noise(1))


def test_a_loader_reads_it_and_batches_do_not_depend_on_how_they_are_shared_out():
    loader = data.Loader(Tableau(size=64, side=16), batch_size=8, seed=3)
    whole = loader.batch(5)
    halves = [data.Loader(loader.dataset, batch_size=8, seed=3, rank=r, world=2).batch(5) for r in range(2)]
    assert torch.equal(torch.cat([h.x0 for h in halves]), whole.x0)


def test_the_world_is_still_the_edition_that_it_says():
    """What rows look like and say: a change of the world asks for a new edition, and for new numbers here."""
    ds = Tableau(size=40, side=32)
    batch = ds.batch(range(40), _noise(40))
    texts = hashlib.sha256("\n".join(data.text(batch.cond["caption"])).encode()).hexdigest()[:16]
    assert WORLD == 1
    assert texts == "5a153a38161691ec"
    means = [-0.147, 0.059, 0.084, -0.095, 0.147, 0.007, 0.087, -0.16]
    assert batch.x0[:8].mean((1, 2, 3)).tolist() == pytest.approx(means, abs=1e-3)


@pytest.mark.slow
def test_two_thousand_scenes_a_second_are_sampled_and_painted_at_32_pixels():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        paint(sample_scenes(range(256)), 32)
        best = 0.0
        for k in range(6):
            start = time.process_time()
            paint(sample_scenes(range(256 * k, 256 * k + 256)), 32)
            best = max(best, 256 / (time.process_time() - start))
    finally:
        torch.set_num_threads(threads)
    assert best > 2000
