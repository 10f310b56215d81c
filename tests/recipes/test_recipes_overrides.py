"""Every field can be set from a line of words, and a slip of the hand is named."""

import pytest

import sfumato as sf
from sfumato.objectives import LogNormal, Uniform
from sfumato.recipes import RECIPES, changes, flatten, override
from sfumato.solvers import DDIM

BASE = RECIPES["digits"]()


def test_recipes_are_configurations():
    for make in RECIPES.values():
        recipe = make()
        assert sf.from_config(sf.to_config(recipe)) == recipe
        assert override(recipe, []) == recipe


def test_leaves_kinds_lists_and_nothing():
    words = "--train.lr 1e-3 --train.steps=7 --net.multipliers 1,2 --net.head-width none --objective.time LogNormal"
    words += " --objective.time.mean 0.5 --schedule VPLinear --defaults.solver DDIM --defaults.solver.eta 1"
    recipe = override(BASE, [*words.split(), "--references", '["ho2020ddpm"]'])
    assert (recipe.train.lr, recipe.train.steps) == (1e-3, 7)
    assert recipe.net.multipliers == (1.0, 2.0)
    assert recipe.net.head_width is None
    assert recipe.objective.time == LogNormal(mean=0.5)
    assert recipe.objective.drop == BASE.objective.drop
    assert recipe.schedule == sf.VPLinear()
    assert recipe.defaults.solver == DDIM(eta=1.0)
    assert recipe.references == ("ho2020ddpm",)
    assert BASE.objective.time == Uniform()  # untouched


def test_one_value_is_a_list_where_a_list_is_expected():
    recipe = override(BASE, ["--train.ema", "300", "--train.frozen", "conv_in.*,label.*"])
    assert recipe.train.ema == (300.0,)
    assert recipe.train.frozen == ("conv_in.*", "label.*")
    with pytest.raises(sf.InputError, match="ema"):
        override(BASE, ["--train.ema", "long"])


def test_naming_the_present_kind_keeps_its_fields():
    once = override(BASE, ["--train.rate.end", "0.5", "--train.rate", "Cosine"])
    assert once.train.rate.end == 0.5
    assert once.train.rate.warmup == BASE.train.rate.warmup


def test_the_difference_is_what_was_set():
    new = override(BASE, ["--train.lr", "0.5", "--schedule", "VPLinear", "--schedule.beta_max", "10"])
    found = {path: (old, value) for path, old, value in changes(BASE, new)}
    assert found == {
        "train.lr": (BASE.train.lr, 0.5),
        "schedule": ("VPCosine", "VPLinear"),
        "schedule.s": (0.008, None),
        "schedule.alpha_end": (5e-05, None),
        "schedule.beta_min": (None, 0.1),
        "schedule.beta_max": (None, 10.0),
    }
    assert changes(BASE, BASE) == []


def test_what_show_lists_can_be_typed_back():
    fields = flatten(BASE)
    words = []
    for path, value in fields.items():
        words += [
            f"--{path}",
            ",".join(map(str, value)) + "," * (len(value) == 1) if isinstance(value, list) and value else str(value),
        ]
    words = [w for w in words if w != ""]
    kept = [(a, b) for a, b in zip(words[::2], words[1::2], strict=True) if not b.endswith(",") or b == ","]
    assert override(BASE, [w for pair in kept for w in pair]) == BASE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--train.lrr 1", "train \\(TrainConfig\\) has no field 'lrr'; did you mean 'lr'"),
        ("--schedul VPLinear", "Recipe has no field 'schedul'; did you mean 'schedule'"),
        ("--schedule VPLin", "unknown kind 'VPLin'; did you mean 'VPLinear'"),
        ("--schedule V", "not a Schedule"),
        ("--objective.time VPLinear", "not a TimeLaw"),
        ("--train.lr fast", "TrainConfig.lr must be float, got 'fast'"),
        ("--train.lr -1", "must be above 0"),
        ("--train.steps 1.5", "must be int"),
        ("--train.lr.x 1", "train.lr is 0.002, which has no fields"),
        ("--train.kind Recipe", "no field 'kind'"),
        ("--net", "--net needs a value"),
        ("train.lr 1", "is not --field value"),
        ("-- 1", "is not --field value"),
        ("--train None", "TrainConfig"),
    ],
)
def test_slips_are_named(words, message):
    with pytest.raises(sf.InputError, match=message) as caught:
        override(BASE, words.split())
    assert "\n" not in str(caught.value)
