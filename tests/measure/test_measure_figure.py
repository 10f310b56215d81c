"""Figures that were not measured alike refuse to be compared."""

import json

import pytest

import sfumato as sf
from sfumato.measure import Figure

BASE = {
    "name": "frechet_distance",
    "value": 3.0,
    "better": "lower",
    "n": 100,
    "n_reference": 200,
    "network": "net:1",
    "resize": "none",
    "reference": "ab",
    "settings": "s",
}
OPERATIONS = [
    lambda a, b: a < b,
    lambda a, b: a > b,
    lambda a, b: a <= b,
    lambda a, b: a >= b,
    lambda a, b: a - b,
    lambda a, b: a.ratio(b),
    lambda a, b: a.is_better(b),
]


def test_comparable_figures_compare_by_value():
    a, b = Figure(**BASE), Figure(**BASE | {"value": 2.0, "error": 0.1, "note": "x"})
    assert b < a
    assert a > b
    assert b <= a
    assert a >= b
    assert not a < b
    assert a - b == 1.0
    assert a.ratio(b) == 1.5
    assert b.is_better(a)
    assert not a.is_better(b)
    assert float(a) == 3.0
    high = Figure(**BASE | {"better": "higher"})
    assert high.is_better(Figure(**BASE | {"better": "higher", "value": 2.0}))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "kernel_distance"),
        ("settings", "t"),
        ("n", 101),
        ("n_reference", 199),
        ("network", "net:2"),
        ("resize", "pillow-bicubic-299"),
        ("reference", "cd"),
    ],
)
def test_others_refuse_and_name_the_field_and_both_values(operation, field, value):
    a, b = Figure(**BASE), Figure(**BASE | {field: value})
    with pytest.raises(sf.InputError) as error:
        operation(a, b)
    text = str(error.value)
    assert f"{field} is {BASE[field]!r} in one and {value!r} in the other" in text
    assert "\n" not in text


def test_no_ratio_to_zero():
    with pytest.raises(sf.InputError, match="ratio"):
        Figure(**BASE).ratio(Figure(**BASE | {"value": 0.0}))


@pytest.mark.parametrize("error", [None, 0.25])
def test_json_round_trip(error):
    figure = Figure(**BASE, error=error, note="n")
    again = sf.from_config(json.loads(json.dumps(sf.to_config(figure))), Figure)
    assert again == figure
    with pytest.raises(sf.InputError, match="better"):
        sf.from_config(sf.to_config(figure) | {"better": "sideways"})


def test_str_shows_what_matters():
    text = str(Figure(**BASE | {"resize": "pillow-bicubic-299"}, error=0.5, note="few rows"))
    for part in ("frechet_distance", "3", "0.5", "100", "200", "net:1", "ab", "pillow-bicubic-299", "few rows"):
        assert part in text
