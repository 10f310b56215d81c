"""Pickles of trainers give their weights, whatever else they hold; what they name is never imported or called."""

import argparse
import builtins
import collections
import datetime
import io
import json
import os
import pickle
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sfumato import CheckpointError
from sfumato.conditioning import read_inversion
from sfumato.interop.inert import ACTING, ACTS, BUILTIN, KNOWN, Held, Inert, Refused, Stored
from sfumato.interop.pickles import convert_pickle
from sfumato.interop.unpickle import tensors_of


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def read(path):
    """Return the tensors and what is left out, in this process: the child's limits are not what is looked at."""
    held = Held(path)
    found, left = tensors_of(held.value)
    return {name: held.tensor(stored) for name, stored in found.items()}, left, held.inert


class Reduced:
    """An object whose pickle calls `function(*given)`, then sets a state and items of what comes back."""

    def __init__(self, function, *given, state=None):
        self.function, self.given, self.state = function, given, state

    def __reduce__(self):
        return (self.function, self.given) if self.state is None else (self.function, self.given, self.state)


@pytest.fixture
def lightning(monkeypatch):
    """A package that is there when the file is written, and is not where it is read."""
    module = types.ModuleType("lightning_of_nobody.callbacks")

    class ModelCheckpoint:
        pass

    class AttributeDict(dict):
        pass

    for kind in (ModelCheckpoint, AttributeDict):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "lightning_of_nobody", types.ModuleType("lightning_of_nobody"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def trainers(lightning):
    """Return what a trainer writes: weights, with whatever is at hand beside them."""
    weights = collections.OrderedDict({"a.weight": drawn(3, 4), "b": torch.arange(3), "half": drawn(5).half()})
    weights |= {
        "tied": weights["a.weight"],
        "part": weights["a.weight"][1:, ::2],
        "parameter": torch.nn.Parameter(drawn(2)),
    }
    weights |= {"none": torch.empty(0, 3), "one": torch.tensor(2.5, dtype=torch.bfloat16)}
    checkpoint = lightning.ModelCheckpoint()
    checkpoint.best = torch.tensor(1.0)
    return {
        "state_dict": weights,
        "callbacks": {lightning.ModelCheckpoint: {"score": np.float64(3.0)}, "made": checkpoint},
        "hyper_parameters": lightning.AttributeDict(lr=0.1, names=["x"]),
        "args": argparse.Namespace(rate=1),
        "when": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        "optimizer_states": [collections.defaultdict(dict, {0: {"exp": drawn(3)}})],
        "more": (
            collections.deque([1, 2]),
            {3, 4},
            np.arange(4),
            torch.float16,
            torch.Size((2, 3)),
            lightning.__name__,
        ),
        "epoch": 3,
    }


@pytest.mark.parametrize("form", ["zip", *(pytest.param(f, marks=pytest.mark.slow) for f in ("old", "protocol 4"))])
def test_a_trainers_file_gives_its_weights_and_names_the_rest(form, lightning, tmp_path, monkeypatch):
    held = trainers(lightning)
    more = {"zip": {}, "old": {"_use_new_zipfile_serialization": False}, "protocol 4": {"pickle_protocol": 4}}[form]
    torch.save(held, tmp_path / "run.ckpt", **more)
    for name in ("lightning_of_nobody", "lightning_of_nobody.callbacks"):
        monkeypatch.delitem(sys.modules, name)
    left = convert_pickle(tmp_path / "run.ckpt", tmp_path / "run.safetensors")
    found = load_file(tmp_path / "run.safetensors")
    assert found.keys() == held["state_dict"].keys()
    for name, tensor in held["state_dict"].items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert set(left) >= held.keys() - {"state_dict"}
    assert set(left) >= {"argparse.Namespace", "datetime.datetime", "lightning_of_nobody.callbacks.ModelCheckpoint"}
    assert "lightning_of_nobody" not in sys.modules


def test_a_float_of_eight_bits_and_attributes_of_a_tensor_are_read(tmp_path):
    tagged = drawn(4)
    tagged.note = "x"
    weights = {"small": drawn(4).to(torch.float8_e4m3fn), "tagged": tagged}
    torch.save(weights, tmp_path / "w.pt")
    found, left, inert = read(tmp_path / "w.pt")
    assert (left, inert) == ([], set())
    assert torch.equal(found["small"].float(), weights["small"].float())
    assert torch.equal(found["tagged"], tagged)


def called(*_):
    raise AssertionError("a function of a file was called")


def test_a_function_that_is_not_known_is_not_called(tmp_path):
    torch.save({"w": drawn(2), "x": Reduced(called, 1, state={"a": 1})}, tmp_path / "w.pt")
    found, left, inert = read(tmp_path / "w.pt")
    assert set(found) == {"w"}
    assert left == ["x"]
    assert inert == {f"{__name__}.called"}


ATTACKS = {
    "os.system": (os.system, "touch RAN"),
    "subprocess": (subprocess.Popen, ["touch", "RAN"]),
    "eval": (eval, "__import__('os').system('touch RAN')"),
    "exec": (exec, "import os; os.system('touch RAN')"),
    "open": (open, "RAN", "w"),
    "import": (builtins.__import__, "antigravity"),
}


@pytest.mark.parametrize("place", ["callbacks", "state_dict"])
@pytest.mark.parametrize("form", ["zip", "old", "plain"])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_file_that_names_what_acts_is_refused_whole_and_runs_nothing(name, form, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = {"state_dict": {"a": torch.ones(2)}}
    held[place] = Reduced(*ATTACKS[name])
    path = tmp_path / "evil.ckpt"
    if form == "plain":
        path.write_bytes(pickle.dumps(held[place]))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        Refused, match=r"^it names (posix|subprocess|commands|builtins|__builtin__|_?io)\.\w+, which no weights need"
    ):
        Held(path)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.slow  # a process for each
def test_the_refusal_is_one_line_of_ours(tmp_path):
    torch.save({"a": torch.ones(2), "x": Reduced(os.system, f"touch {tmp_path / 'ran'}")}, tmp_path / "evil.ckpt")
    (tmp_path / "text.pt").write_bytes(b"hello, this is no pickle")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "zip.pt").write_bytes(b"PK\3\4" + b"x" * 100)
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "object.pt")
    torch.save({"w": drawn(500)}, tmp_path / "cut.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-100])
    said = {
        "evil.ckpt": "it names posix.system, which no weights need and attacks do: delete it and look for safetensors",
        "text.pt": "it is damaged, or no file that torch wrote",
        "empty.pt": "it is damaged, or no file that torch wrote",
        "zip.pt": "it is damaged, or no file that torch wrote",
        "list.pt": "it holds no table of tensors",
        "object.pt": "but objects of torch.nn.modules.linear.Linear: only a state_dict() has names for them",
        "cut.pt": "it is damaged, or no file that torch wrote",
    }
    for name, why in said.items():
        with pytest.raises(CheckpointError) as refused:
            convert_pickle(tmp_path / name, tmp_path / "out.safetensors")
        assert str(refused.value).startswith(f"{tmp_path / name} is refused: ")
        assert str(refused.value).endswith(why)
        assert "torch.load" not in str(refused.value)
        assert str(refused.value).isprintable()
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_the_names_of_a_file_do_not_command_a_terminal(tmp_path):
    torch.save({"w": drawn(2, 2), "v": drawn(2), "\x1b[31mred\n": 1, (1, 2): 2}, tmp_path / "w.pt")
    left = convert_pickle(tmp_path / "w.pt", tmp_path / "w.safetensors")
    assert left == [r"'\x1b[31mred\n'", "tuple"]


def storage(*numbers, key="0", count=4):
    """Return a pickle of a tensor of these (offset, shape, stride)."""

    class Writer(pickle._Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, key, "cpu", count) if obj == "here" else None

    out = io.BytesIO()
    rebuilt = Reduced(torch._utils._rebuild_tensor_v2, "here", *numbers, False, collections.OrderedDict())
    Writer(out, 2).dump({"a": rebuilt})
    return out.getvalue()


@pytest.mark.parametrize(
    "numbers",
    [
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (1 << 62, 1 << 62), (1, 1)),
        (0, (2,), (1, 1)),
        (0, (1,) * 80, (1,) * 80),
        (0.0, (2,), (1,)),
        (0, ("2",), (1,)),
        (0, ([],), (1,)),
    ],
)
def test_a_tensor_beyond_its_file_is_refused(numbers, tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        file.writestr("w/data.pkl", storage(*numbers))
        file.writestr("w/data/0", drawn(4).numpy().tobytes())
    held = Held(tmp_path / "w.pt")
    assert isinstance(held.value["a"], Stored)
    with pytest.raises(Refused, match=r"it is (damaged|cut): a tensor is described that"):
        held.tensor(held.value["a"])


def test_nothing_that_a_pickle_can_reach_is_changed_by_it(tmp_path):
    """BUILD sets attributes of what it is given: of classes and functions as well."""
    reached = {type(v) for v in KNOWN.values()} | {v for v in KNOWN.values() if isinstance(v, type)}
    functions = [v for v in KNOWN.values() if hasattr(v, "_made")]
    before = {kind: dict(vars(kind)) for kind in reached}, [function._made for function in functions]
    names = [*KNOWN, ("anything", "Else")]
    for module, name in names:
        for state in (b"}X\1\0\0\0aK\1s", b"N}X\5\0\0\0_madeK\1s\x86"):  # a table; a pair, which goes by setattr
            program = f"\x80\2c{module}\n{name}\n".encode("latin1") + state + b"b."
            with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
                file.writestr("w/data.pkl", program)
            try:
                Held(tmp_path / "w.pt")
            except Refused:
                continue
    assert ({kind: dict(vars(kind)) for kind in reached}, [function._made for function in functions]) == before


def test_an_inert_object_takes_everything():
    made = Inert(1, a=2)
    made[1] = 2
    made.append(3)
    made.extend([4])
    made.add(5)
    made.__setstate__({"a": 1})
    assert isinstance(made(6)(7), Inert)
    with pytest.raises(AttributeError):
        made.a = 1


def test_a_module_beside_the_file_is_not_imported(tmp_path, monkeypatch):
    """The child starts where the command was given, among files that were downloaded with the weights."""
    torch.save({"w": drawn(2, 2)}, tmp_path / "w.pt")
    for name in ("torch", "json", "safetensors", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    convert_pickle(tmp_path / "w.pt", tmp_path / "w.safetensors")
    assert not (tmp_path / "ran").exists()


def test_the_names_that_act_are_not_among_those_that_are_known():
    assert not {module.partition(".")[0] for module, _ in KNOWN} & ACTING
    assert not {name for module, name in KNOWN if module in BUILTIN} & ACTS


@pytest.mark.parametrize(
    ("held", "token", "left"),
    [
        ({"<hat>": drawn(2, 8)}, "<hat>", []),
        pytest.param({"<hat>": drawn(8)}, "<hat>", [], marks=pytest.mark.slow),
        pytest.param({"hat": drawn(1, 8)}, "hat", [], marks=pytest.mark.slow),
        pytest.param({"my hat": drawn(2, 8)}, "new-word", [], marks=pytest.mark.slow),
        ({"string_to_token": {"*": 265}, "string_to_param": {"*": drawn(2, 8)}, "name": "sunset", "step": 5}, "sunset",
         ["step", "string_to_token"]),
        ({"string_to_param": {"*": drawn(2, 8)}, "name": "two words"}, "new-word", []),
        pytest.param({"string_to_param": {"*": drawn(2, 8)}}, "new-word", [], marks=pytest.mark.slow),
        ({"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(drawn(2, 8))}), "name": "older"}, "older",
         []),
    ],
)  # fmt: skip
def test_a_learned_word_that_was_pickled_is_read_with_its_own_name(held, token, left, tmp_path):
    vectors = next(iter(held.get("string_to_param", held).values())).detach().reshape(-1, 8)
    torch.save(held, tmp_path / "word.pt")
    named = [
        name for name in convert_pickle(tmp_path / "word.pt", tmp_path / "new-word.safetensors") if "." not in name
    ]
    assert named == left
    word = read_inversion(tmp_path / "new-word.safetensors")
    assert word.token == token
    assert torch.equal(word.vectors[""], vectors)


def test_a_pair_of_pickled_words_for_two_towers_is_read(tmp_path):
    held = {"clip_l": drawn(2, 8), "clip_g": drawn(2, 12)}
    torch.save(held, tmp_path / "word.pt")
    convert_pickle(tmp_path / "word.pt", tmp_path / "hat.safetensors")
    word = read_inversion(tmp_path / "hat.safetensors")
    assert word.token == "hat"
    assert all(torch.equal(word.vectors[name], vectors) for name, vectors in held.items())


def test_the_child_says_one_line_of_json(tmp_path):
    torch.save({"w": drawn(2, 2)}, tmp_path / "w.pt")
    command = [sys.executable, "-P", "-m", "sfumato.interop.unpickle", str(tmp_path / "w.pt")]
    done = subprocess.run(
        [*command, str(tmp_path / "w.safetensors"), str(1 << 30), "60"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"tensors": 1, "left": []}
