"""Every solver and grid has a name."""

import pytest
import torch

import sfumato as sf
from sfumato import solvers
from sfumato.core import grids
from sfumato.pipeline import GRIDS, SOLVERS, Defaults
from sfumato.pipeline.names import by_name


def test_every_solver_has_a_name():
    every = {name for name in solvers.__all__ if hasattr(getattr(solvers, name), "step")}  # not UniPC's B(h)
    assert {type(s).__name__ for s in SOLVERS.values()} == every


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_falls_to_the_data(name):
    times = GRIDS[name](sf.VPLinear(), 6)
    assert len(times) == 7
    assert times[-1] == 0
    assert bool((times.diff() < 0).all())
    other = {"ays": "tabulated", "leading-0": "leading_zero"}
    assert getattr(grids, other.get(name, name.replace("-", "_"))) is GRIDS[name]


def test_names_are_read_in_any_case_and_defaults_are_checked():
    assert by_name("solver", "DPM++2M", SOLVERS) == solvers.DPMpp2M()
    for changes, message in (
        ({"grid": "x"}, "unknown grid"),
        ({"steps": 0}, "steps"),
        ({"guidance": torch.inf}, "finite"),
    ):
        with pytest.raises(sf.InputError, match=message):
            Defaults(**changes)
