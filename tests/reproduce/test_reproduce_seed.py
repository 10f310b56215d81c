"""Another seed: it reaches everything random, and its results are kept apart from the protocol's."""

import ast
import importlib
import inspect
import json
from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.reproduce import (
    CATALOGUE,
    Claim,
    Context,
    Entry,
    Measured,
    System,
    cold_diffusion,
    ddim,
    dpm_solver,
    edm,
    execute,
    last_report,
    ncsn,
    pictures,
    score_sde,
)
from sfumato.reproduce import align_your_steps as ays
from sfumato.reproduce.beds import rows_of

MODULES = [entry.module for entry in CATALOGUE.values() if entry.exists] + ["sfumato.reproduce.pictures"]


def echo(context):
    yield Measured("seed", context.seed)


def system() -> System:
    claim = Claim(key="seed", says="it is the seed", low=0.0)
    return System(entry=CATALOGUE["ddpm"], claims=(claim,), protocol="Nothing.", seed=0, run=echo)


def test_a_system_is_given_the_seed_and_the_report_says_it():
    assert [execute(system()).rows[0].value, execute(system(), seed=5).rows[0].value] == [0, 5]
    assert [execute(system()).seed, execute(system(), seed=5).seed] == [0, 5]


def test_another_seed_does_not_stand_in_for_the_protocol(tmp_path):
    other = execute(system(), out=tmp_path, seed=5)
    assert last_report(tmp_path, "ddpm") is None
    own = execute(system(), out=tmp_path)
    last = execute(system(), out=tmp_path, seed=5)
    assert last_report(tmp_path, "ddpm")["folder"] == own.folder
    assert Path(other.folder).parent == Path(last.folder).parent == tmp_path / "reproduce" / "ddpm" / "seed-5"
    assert json.loads((Path(other.folder) / "rows.json").read_text())["seed"] == 5


@pytest.mark.parametrize(("words", "seed"), [([], 0), (["--seed", "3"], 3)])
def test_the_command_takes_it(monkeypatch, tmp_path, capsys, words, seed):
    monkeypatch.setattr(Entry, "load", lambda self: system())
    assert main(["reproduce", "ddpm", "--json", "--out", str(tmp_path), *words]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == seed


def test_seeds_share_no_row():
    assert rows_of("a", 5, seed=1) == rows_of("a", 10)[5:]
    assert not set(rows_of("a", 5)) & set(rows_of("a", 5, seed=1))


def test_a_model_trained_with_another_seed_is_another(tmp_path):
    """Neither its weights nor its place in the cache are those of the protocol's seed."""
    found = {}
    for seed in (0, 1, 0):
        context = Context(seed=seed, cache=tmp_path)
        context.fitted = lambda name, config, net, fit: found.setdefault(json.dumps(config, sort_keys=True), net)
        pictures.trained(context, "simple", pictures.Denoising().weighting)
    assert len(found) == 2
    first, second = ([*net.parameters()] for net in found.values())
    assert any(not a.equal(b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "figure",
    [
        lambda seed: ddim.eta_one(seed=seed),
        lambda seed: dpm_solver.first(seed=seed),
        lambda seed: edm.variances(100, seed=seed),
        lambda seed: ncsn.spread(ncsn.modes(), ncsn.TOY, 100, seed=seed),
        lambda seed: cold_diffusion.linear_errors(8, seed=seed),
        lambda seed: score_sde.values(10, score_sde.RK4, 5, score_sde.Rademacher(), seed=seed).tolist(),
        lambda seed: ays.data(seed=seed).x0[0].tolist(),
    ],
)
def test_figures_depend_on_the_seed_alone(figure):
    assert figure(0) == figure(0)
    assert figure(0) != figure(1)


def called(module, function):
    """Return what `name(...)` or `name.name(...)` calls, None for anything deeper."""
    if isinstance(function, ast.Name):
        return getattr(module, function.id, None)
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return getattr(getattr(module, function.value.id, None), function.attr, None)
    return None


@pytest.mark.parametrize("name", MODULES)
def test_no_helper_is_left_at_its_own_seed(name):
    """A helper that takes a seed and is not given one would silently be that of the protocol."""
    module = importlib.import_module(name)
    source = ast.parse(Path(module.__file__).read_text())
    own = [node for node in source.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    calls = [node for part in own for node in ast.walk(part) if isinstance(node, ast.Call)]
    for call in calls:
        target = called(module, call.func)
        home = getattr(target, "__module__", None) or ""
        if home.startswith("sfumato.reproduce"):
            parameter = inspect.signature(target).parameters.get("seed")
            if parameter is not None and parameter.kind is parameter.KEYWORD_ONLY:
                assert "seed" in {word.arg for word in call.keywords}, f"{name}:{call.lineno}"
            assert getattr(target, "__name__", "") != "fit" or ast.unparse(call.args[-1]) != "TRAIN", call.lineno
        elif target is ays.optimise:
            assert "seed" in {word.arg for word in call.keywords}, call.lineno
    nodes = [node for function in own for node in ast.walk(function)]
    heads = [node for node in nodes if isinstance(node, ast.arguments)]
    defaults = [value for head in heads for value in (*head.defaults, *head.kw_defaults)]
    used = [node.lineno for node in nodes if isinstance(node, ast.Name) and node.id == "SEED" and node not in defaults]
    assert not used, f"{name}:{used} says SEED where the run's seed belongs"
