"""Compiled runs: equal to eager ones to rounding, the same again to the bit, and compiled once."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato.core import InputError, compiled
from sfumato.nets import MLPConfig
from sfumato.testing.table import SOLVERS

FIXED = [
    name for name, s in SOLVERS.items() if not hasattr(s, "atol") and name not in ("DDPMLearned", "AnnealedLangevin")
]


def denoiser(**settings):
    torch.manual_seed(0)
    net = MLPConfig(width=16, layers=1, **settings).build().eval()
    return sf.Preconditioned(net, sf.VPLinear(), sf.V())


def both(model, solver, n=8, **settings) -> tuple[Tensor, Tensor]:
    grid = sf.grids.uniform(model.schedule, n)
    draw = lambda compile: sf.sample(
        model, (3, 2), solver=solver, grid=grid, seeds=range(3), compile=compile, **settings
    )
    return draw(True), draw(False)


def close(pair: tuple[Tensor, Tensor]) -> bool:
    ours, eager = pair
    return bool((ours - eager).abs().max() <= 1e-5 * eager.abs().max())


def test_runs_of_one_form_are_compiled_once_and_are_the_same_to_the_bit():
    model = denoiser()
    assert close(first := both(model, sf.solvers.DDIM()))
    done = len(compiled._GRAPHS)
    assert torch.equal(both(model, sf.solvers.DDIM())[0], first[0])
    with torch.no_grad():
        model.net.weight_out.mul_(2.0)  # in place: seen without a new record
    assert close(changed := both(model, sf.solvers.DDIM()))
    assert not torch.equal(changed[0], first[0])
    model.net.weight_out = torch.nn.Parameter(3.0 * model.net.weight_out.detach())  # another object: recorded anew
    assert close(both(model, sf.solvers.DDIM()))
    assert close(both(denoiser(), sf.solvers.Euler()))  # another solver and model, the same form
    assert close(both(model, sf.solvers.DDIM(), x=torch.ones(3, 2)))
    assert len(compiled._GRAPHS) == done
    assert not torch._dynamo.utils.counters["graph_break"]
    weight = weakref.ref(model.net.weight)
    del model
    gc.collect()
    assert weight() is None  # graphs hold no weights


def test_a_callback_sees_each_state():
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    for way, states in seen.items():
        sf.sample(
            denoiser(),
            (3, 2),
            solver=sf.solvers.DDIM(),
            grid=sf.grids.uniform(sf.VPLinear(), 4),
            seeds=range(3),
            compile=way,
            callback=lambda k, x, states=states: states.append(x.clone()),
        )
    assert [close(pair) for pair in zip(seen[True], seen[False], strict=True)] == [True] * 4


def test_a_solver_that_reads_the_state_is_refused():
    with pytest.raises(InputError, match=r"RK45 cannot be compiled .* leave compile out"):
        both(denoiser(), sf.solvers.RK45())


def test_a_machine_without_a_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    with pytest.raises(InputError, match=r"needs a C.. compiler"):
        both(denoiser(num_classes=7), sf.solvers.DDIM())


def test_a_network_of_another_dtype_is_recorded_anew(monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", lambda form: form.graph())
    model = denoiser()
    assert close(both(model, sf.solvers.DDIM()))
    model.double()  # the same parameters, with other data
    assert close(both(model, sf.solvers.DDIM()))


def replays(name, n=12):
    model = denoiser(num_classes=3)
    guided = sf.guidance.ClassifierFree(denoiser=model, scale=2.0)
    assert close(both(model, SOLVERS[name], n=n))
    cond = {"y": torch.tensor([0, 1, 2])}
    first, again = (both(guided, SOLVERS[name], cond=cond) for _ in range(2))
    assert close(first)
    assert torch.equal(first[0], again[0])
    assert close(both(guided, SOLVERS[name], cond={"y": torch.tensor([2, 2, 0])}))  # of the same record
    assert close(both(guided, SOLVERS[name], cond={"y": torch.tensor([1]).expand(3)}))  # laid out in another way


@pytest.mark.parametrize(
    "name", [name if name in ("DEIS", "Ancestral") else pytest.param(name, marks=pytest.mark.slow) for name in FIXED]
)
def test_the_record_of_every_solver_replays(name, monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", lambda form: form.graph())  # the graphs as they are, uncompiled
    replays(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_every_solver_compiles(name):
    replays(name)
