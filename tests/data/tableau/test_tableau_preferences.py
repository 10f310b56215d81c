"""Of a preference pair the caption holds of the better picture and not of the worse, for the reason that is given."""

import pytest
import torch

import sfumato as sf
from sfumato import data
from sfumato.data.tableau.claims import holds
from sfumato.data.tableau.defects import blur
from sfumato.data.tableau.paint import paint
from sfumato.data.tableau.preferences import REASONS, TableauPreferences
from sfumato.data.tableau.relations import SLACK

N = 300


@pytest.fixture(scope="module")
def told():
    return TableauPreferences(size=N, side=32).preferences(range(N))


def test_the_caption_holds_of_the_better_scene_alone(told):
    claims = [c.claims for c in told.captions]
    assert holds(claims, told.better).all()
    soft = told.reason == REASONS.index("blur")
    assert torch.equal(holds(claims, told.worse, SLACK), soft)
    for name, value in told.better.arrays().items():
        assert torch.equal(value[soft], told.worse.arrays()[name][soft])


def test_the_reason_is_what_differs(told):
    better, worse = told.better.arrays(), told.worse.arrays()
    for b, reason in enumerate(told.reason.tolist()):
        changed = {name for name in better if not torch.equal(better[name][b], worse[name][b])}
        allowed = {
            "shape": {"shape", "turn"},
            "colour": {"colour"},
            "size": {"size", "radius"},
            "texture": {"texture"},
            "relation": {"x", "y"},
            "ground": {"ground", "ground_colour", "ground_angle"},
            "blur": set(),
        }.get(REASONS[reason])
        if allowed is not None:
            assert changed <= allowed
        else:
            step = int(worse["count"][b] - better["count"][b])
            assert step == {"object": -1, "count": 1}[REASONS[reason]]
    counts = torch.bincount(told.reason, minlength=len(REASONS))
    assert (counts > 0).all()
    assert counts[-1] < N / 2


def test_pictures_are_those_of_the_scenes_and_blurred_ones_are_blurred(told):
    ds = TableauPreferences(size=N, side=32)
    rows = list(range(0, N, 4))
    batch = ds.batch(rows, sf.Noise(rows))
    torch.testing.assert_close(batch.x0, paint(told.better[rows], 32), atol=1e-6, rtol=0)
    soft = told.reason[rows] == REASONS.index("blur")
    torch.testing.assert_close(batch.cond["worse"][~soft], paint(told.worse[rows], 32)[~soft], atol=1e-6, rtol=0)
    torch.testing.assert_close(batch.cond["worse"][soft], blur(batch.x0[soft]), atol=1e-5, rtol=0)
    assert torch.equal(batch.cond["reason"], told.reason[rows])
    assert data.text(batch.cond["caption"]) == [told.captions[i].text for i in rows]


def test_settings():
    ds = TableauPreferences(size=50, blurred=1.0)
    assert (ds.preferences(range(50)).reason == REASONS.index("blur")).all()
    assert sf.from_config(sf.to_config(ds), data.Dataset) == ds
    assert ds.fingerprint != TableauPreferences(size=50).fingerprint
    with pytest.raises(sf.InputError, match=r"blurred in \[0, 1\]"):
        TableauPreferences(blurred=2.0)
