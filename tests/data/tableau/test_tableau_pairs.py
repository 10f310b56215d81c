"""Edits change what their instruction says and nothing else."""

import math

import pytest
import torch

import sfumato as sf
from sfumato import data
from sfumato.conditioning import Words
from sfumato.data.tableau import shapes
from sfumato.data.tableau.paint import paint
from sfumato.data.tableau.pairs import INSTRUCTION_WORDS, KINDS, TableauEdits, edit
from sfumato.data.tableau.sampling import Law, lawful, sample_scenes
from sfumato.data.tableau.scene import COLOURS, GROUND_COLOURS, SHAPES, SIZES, TEXTURES, held_out
from sfumato.data.tableau.words import WORDS

N = 400
PER_OBJECT = ("shape", "colour", "size", "texture", "x", "y", "radius", "turn")


@pytest.fixture(scope="module")
def made():
    return edit(sample_scenes(range(N)), sf.Noise(range(N)))


def test_pictures_differ_inside_the_edited_object_and_nowhere_else(made):
    before, after = paint(made.before, 32), paint(made.after, 32)
    differ = (before - after).abs().amax(1)
    mask = made.mask(32)
    assert differ[~mask].max() < 1e-6
    assert (differ.amax((1, 2)) > 0.1).all()
    objects = torch.tensor([k != "ground" for k in made.kind])
    assert not mask[objects].all(2).all(1).any()


def test_all_but_what_is_named_stays(made):
    for b, kind in enumerate(made.kind):
        j = int(made.place[b])
        old, new = made.before[b].arrays(), made.after[b].arrays()
        if kind == "remove":
            assert int(new["count"]) == int(old["count"]) - 1
            keep = [i for i in range(4) if i != j]
            assert all(torch.equal(new[a][0, :3], old[a][0, keep]) for a in PER_OBJECT)
            continue
        changed = {a for a in old if not torch.equal(old[a], new[a])}
        allowed = {
            "colour": {"colour"},
            "texture": {"texture"},
            "shape": {"shape", "turn"},
            "size": {"size", "radius"},
            "move": {"x", "y"},
            "add": {"count", *PER_OBJECT},
            "ground": {"ground", "ground_colour", "ground_angle"},
        }[kind]
        assert changed
        assert changed <= allowed
        if kind == "shape":  # the same turn, as far as the new shape shows it
            order = shapes.SYMMETRY[int(new["shape"][0, j])]
            period = 2 * math.pi / order if order else 1.0
            assert 0 <= new["turn"][0, j] < period + 1e-6
            turns = float(old["turn"][0, j] - new["turn"][0, j]) / period
            assert not order or abs(turns - round(turns)) < 1e-4
        if kind != "ground":
            others = [i for i in range(4) if i != j]
            assert all(torch.equal(new[a][0, others], old[a][0, others]) for a in PER_OBJECT)


def test_the_instruction_says_what_was_done(made):
    pools = {"colour": COLOURS, "texture": TEXTURES, "size": SIZES}
    for b, (kind, text) in enumerate(zip(made.kind, made.instruction, strict=True)):
        j, after, before, words = int(made.place[b]), made.after, made.before, text.split()
        alone = int(before.count[b]) == 1
        if kind in pools:
            assert words[0] == "make"
            assert words[-1] == pools[kind][int(getattr(after, kind)[b, j])]
        elif kind == "shape":
            assert words[0] == "turn"
            assert words[-1] == SHAPES[int(after.shape[b, j])]
        elif kind == "move":
            step = torch.stack([after.x - before.x, after.y - before.y])[:, b, j]
            way = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[words[-1]]
            assert 0.15 - 1e-5 <= step[way[0]] * way[1] <= 0.45 + 1e-5
            assert step[1 - way[0]] == 0
        elif kind == "add":
            assert words[0] == "add"
            assert words[-1] == SHAPES[int(after.shape[b, j])]
        elif kind == "ground":
            assert words[-1] == GROUND_COLOURS[int(after.ground_colour[b, 0])]
            assert (after.ground_colour[b, 0] == after.ground_colour[b, 1]).all()
        if kind not in ("add", "ground"):
            assert (("it" in words) and kind != "remove") is alone
            shown = [SHAPES[k] for k in before.shape[b, : before.count[b]].tolist()]
            assert alone or shown[j] in words or "object" in words


def test_edited_scenes_keep_the_law(made):
    objects = torch.tensor([k != "ground" for k in made.kind])
    assert lawful(made.after[objects]).all()
    assert not held_out(made.after.shape, made.after.colour)[made.after.present].any()
    kinds = {k: made.kind.count(k) for k in KINDS}
    assert min(kinds.values()) > N / 40, kinds


def test_an_object_is_meant_alone(made):
    """The words that call it fit no other object of the scene."""
    pools = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
    for b, text in enumerate(made.instruction):
        if made.kind[b] in ("add", "ground") or made.before.count[b] == 1:
            continue
        words = text.split(" into ")[0].split()
        words = words[:-1] if made.kind[b] in ("colour", "texture", "size", "move") else words
        said = {name: [pool.index(w) for w in words if w in pool] for name, pool in pools.items()}
        fits = [
            all(int(getattr(made.before, name)[b, i]) in values for name, values in said.items() if values)
            for i in range(int(made.before.count[b]))
        ]
        assert fits == [i == int(made.place[b]) for i in range(len(fits))], text


def test_a_kind_can_be_asked_for_and_a_row_is_its_own():
    scenes = sample_scenes(range(60), Law(counts=(0, 1, 0, 0), twins=0))
    for kind in ("colour", "remove"):
        assert set(edit(scenes, sf.Noise(range(60)), (kind,)).kind) == {kind}
    some = edit(scenes[10:13], sf.Noise(range(10, 13)))
    assert some.instruction == edit(scenes, sf.Noise(range(60))).instruction[10:13]
    with pytest.raises(sf.InputError, match="did you mean 'colour'"):
        edit(scenes, sf.Noise(range(60)), ("color",))


def test_the_data_set_gives_source_target_and_instruction_in_known_words():
    ds = TableauEdits(size=90, side=32)
    rows = list(range(0, 90, 2))
    batch = ds.batch(rows, sf.Noise(rows))
    made = ds.edits(rows)
    assert torch.equal(batch.x0, paint(made.after, 32))
    assert torch.equal(batch.cond["source"], paint(made.before, 32))
    assert data.text(batch.cond["caption"]) == made.instruction
    known = Words(vocabulary=tuple(dict.fromkeys((*WORDS, *INSTRUCTION_WORDS))))
    assert not any(known.spell(text).unknown for text in made.instruction)
    assert sf.from_config(sf.to_config(ds), data.Dataset) == ds
    assert ds.fingerprint != TableauEdits(size=90, side=32, kinds=("move",)).fingerprint
    with pytest.raises(sf.InputError, match="kinds among"):
        TableauEdits(kinds=("paint",))
    with pytest.raises(sf.InputError, match="a TableauEdits of 90: rows count from 0"):
        ds.edits([90])
