"""Configurations: what is refused, and how."""

from dataclasses import dataclass
from typing import Literal

import pytest

from sfumato.core import (
    VE,
    InputError,
    Rectified,
    Schedule,
    VPLinear,
    ZeroTerminalSNR,
    from_config,
    register,
    to_config,
)
from sfumato.core.config import REGISTRY


@dataclass(frozen=True, kw_only=True)
class Everything:
    """Every type that a configuration may hold."""

    number: float
    count: int = 3
    flag: bool = False
    name: str = "x"
    mode: Literal["a", "b"] = "a"
    maybe: int | None = None
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[str, ...] = ()
    inner: Schedule | None = None
    table: dict[str, float] | None = None


@pytest.fixture(autouse=True)
def registry():
    register(Everything)
    yield
    del REGISTRY["Everything"]


FULL = Everything(
    number=0.5,
    count=7,
    flag=True,
    name="y",
    mode="b",
    maybe=2,
    pair=(3, 4.0),
    many=("p", "q"),
    inner=VE(),
    table={"k": 1.0},
)


def test_round_trip_of_every_type():
    data = to_config(FULL)
    assert data["kind"] == "Everything"
    assert data["inner"] == {"kind": "VE", "sigma_min": 0.002, "sigma_max": 80.0}
    assert data["many"] == ["p", "q"]
    assert from_config(data) == FULL
    assert from_config({"kind": "Everything", "number": 1}) == Everything(number=1.0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"kind": "VPLinaer"}, "unknown kind 'VPLinaer'; did you mean 'VPLinear'"),
        ({"kind": "VPLinear", "beta_mim": 1.0}, "VPLinear has no field 'beta_mim'; did you mean 'beta_min'"),
        ({"beta_min": 1.0}, "needs a 'kind'"),
        ([1, 2], "needs a 'kind'"),
        ({"kind": 7}, "unknown kind 7"),
        ({"kind": "Everything"}, "Everything needs number"),
        ({"kind": "Everything", "number": "0.5"}, "Everything.number must be float, got '0.5'"),
        ({"kind": "Everything", "number": True}, "Everything.number must be float"),
        ({"kind": "Everything", "number": 1, "count": 1.5}, "Everything.count must be int"),
        ({"kind": "Everything", "number": 1, "count": True}, "Everything.count must be int"),
        ({"kind": "Everything", "number": 1, "flag": 1}, "Everything.flag must be bool"),
        ({"kind": "Everything", "number": 1, "mode": "c"}, "Everything.mode must be"),
        ({"kind": "Everything", "number": 1, "maybe": "no"}, "Everything.maybe must be"),
        ({"kind": "Everything", "number": 1, "pair": [1]}, "Everything.pair needs 2 values, got 1"),
        ({"kind": "Everything", "number": 1, "many": [1]}, "Everything.many must be str"),
        ({"kind": "Everything", "number": 1, "inner": {"kind": "Eps"}}, "kind 'Eps' is not a Schedule"),
        ({"kind": "Everything", "number": 1, "inner": {"kind": "VE", "sigma": 1}}, "VE has no field 'sigma'"),
        ({"kind": "ZeroTerminalSNR"}, "ZeroTerminalSNR needs base"),
    ],
)
def test_refusals_name_the_thing_and_the_remedy(data, said):
    with pytest.raises(InputError, match=said) as refusal:
        from_config(data)
    assert "\n" not in str(refusal.value)


def test_an_expected_kind():
    assert from_config(to_config(Rectified()), Schedule) == Rectified()
    with pytest.raises(InputError, match="kind 'Eps' is not a Schedule"):
        from_config({"kind": "Eps"}, Schedule)


def test_nested_configurations():
    nested = ZeroTerminalSNR(base=VPLinear(beta_max=15.0))
    assert from_config(to_config(nested)) == nested


def test_only_frozen_dataclasses_of_their_own_name_are_registered():
    @dataclass
    class Loose:
        pass

    @dataclass(frozen=True)
    class VPLinear:
        pass

    with pytest.raises(TypeError, match="not a frozen dataclass"):
        register(Loose)
    with pytest.raises(TypeError, match="two classes are called VPLinear"):
        register(VPLinear)


def test_what_cannot_be_written_is_refused():
    @dataclass(frozen=True)
    class Stranger:
        pass

    with pytest.raises(InputError, match="Stranger is not registered"):
        to_config(Stranger())
    with pytest.raises(InputError, match="cannot be written"):
        to_config(Everything(number=1.0, name=object()))
