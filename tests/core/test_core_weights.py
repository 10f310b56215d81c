"""Weights: written whole or not at all, and nothing read from a file whose header is not exactly what it should be."""

from __future__ import annotations

import itertools
import json
import os
import resource
import stat
import struct

import pytest
import torch

from sfumato.core import CheckpointError, InputError, weights
from sfumato.core.weights import check_header, read_cast, read_metadata, read_weights, specs, stored_as, write_weights

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


def test_round_trip_keeps_bits_dtypes_and_metadata(tmp_path):
    tensors = TENSORS | {
        "half": torch.randn(3).bfloat16(),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "view": torch.arange(12.0).reshape(3, 4).t(),
    }
    write_weights(tmp_path / "w.safetensors", tensors, {"step": "7"})
    back = read_weights(tmp_path / "w.safetensors", specs(tensors))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)
    assert read_metadata(tmp_path / "w.safetensors") == {"step": "7"}
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_what_is_cast_is_read_alone(tmp_path):
    write_weights(tmp_path / "w", TENSORS | {"half": torch.randn(3).half()}, {})
    back = read_cast(tmp_path / "w", torch.bfloat16)
    assert back.keys() == {"a.weight", "b", "half"}
    assert torch.equal(back["a.weight"], TENSORS["a.weight"].bfloat16())
    assert back["half"].dtype == torch.bfloat16
    assert back["b"].dtype == torch.int64
    assert torch.equal(back["b"], TENSORS["b"])
    assert read_cast(tmp_path / "w", torch.float64, ["half"]).keys() == {"half"}
    with pytest.raises(CheckpointError, match="cannot read"):
        read_cast(tmp_path / "other", torch.float16)
    assert not stored_as(back.values(), torch.float16)
    assert stored_as(back.values(), torch.bfloat16)


@pytest.mark.parametrize(("stored", "asked"), list(itertools.permutations((F32, F16, BF16, torch.float64), 2)))
def test_a_cast_is_that_of_pytorch_to_the_bit(tmp_path, stored, asked):
    bits = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)  # every half there is
    values = torch.cat([bits.to(stored), torch.randn(300_001).to(stored)])
    write_weights(tmp_path / "w", {"a": values, "empty": values[:0], "b": values.flip(0)}, {})
    back = read_cast(tmp_path / "w", asked)
    for name, right in {"a": values, "empty": values[:0], "b": values.flip(0)}.items():
        assert back[name].dtype == asked
        assert torch.equal(back[name].nan_to_num(nan=7.0), right.to(asked).nan_to_num(nan=7.0))


def test_a_cast_reads_any_offset_and_holds_little_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_PART", 8192)
    dropped = []
    monkeypatch.setattr(weights, "_drop", lambda mapped, *span: dropped.append(span))
    values = {"odd": torch.arange(3, dtype=torch.uint8), "x": torch.randn(10_001)}  # x begins at an odd byte
    data = b"".join(t.numpy().tobytes() for t in values.values())
    at = {"odd": [0, 3], "x": [3, len(data)]}
    head = {
        n: {"dtype": "U8" if n == "odd" else "F32", "shape": list(values[n].shape), "data_offsets": at[n]} for n in at
    }
    head = json.dumps(head).encode()
    (tmp_path / "w").write_bytes(len(head).to_bytes(8, "little") + head + data)
    back = read_cast(tmp_path / "w", torch.float16)
    assert torch.equal(back["x"], values["x"].half())
    assert torch.equal(back["odd"], values["odd"])
    assert dropped
    assert max(end - begin for begin, end in dropped) <= 8192
    assert sorted(dropped)[-1][1] == len(data) + len(head) + 8


@pytest.mark.parametrize("change", [lambda b: b[:-4], lambda b: b + b"1234", lambda b: b""])
def test_a_file_that_changes_after_its_check_is_not_cast(tmp_path, monkeypatch, change):
    write_weights(tmp_path / "w", TENSORS, {})
    header = weights._header

    def then_changed(path):
        found = header(path)
        path.write_bytes(change(path.read_bytes()))
        return found

    monkeypatch.setattr(weights, "_header", then_changed)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_cast(tmp_path / "w", torch.float16)


def test_tied_weights_are_written_under_both_names(tmp_path):
    tied = torch.arange(4.0)
    write_weights(tmp_path / "w", {"in": tied, "out": tied, "part": tied[:2]}, {})
    back = read_weights(tmp_path / "w")
    assert torch.equal(back["out"], tied)
    assert torch.equal(back["part"], tied[:2])


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_file_gets_the_mode_of_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_weights(tmp_path / "w", TENSORS, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == mode


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write_weights(tmp_path / "w", TENSORS, {})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; what was there is untouched"):
        write_weights(tmp_path / "w", {"a.weight": torch.zeros(9)}, {})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["w"]
    assert torch.equal(read_weights(tmp_path / "w")["a.weight"], TENSORS["a.weight"])


def test_names_that_would_not_be_read_are_not_written(tmp_path):
    for name in ("../x", "a b", "", "x" * 257):
        with pytest.raises(InputError, match="cannot name a tensor"):
            write_weights(tmp_path / "w", {name: torch.zeros(1)}, {})


def file(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape=(2,), offsets=(0, 8), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)} | more


ONE = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
HOSTILE = {
    "nothing": (b"", "not a whole"),
    "short": (b"\x01\x02", "not a whole"),
    "pickle": (b"\x80\x04\x95" + b"cos\nsystem\n" * 9, "not a whole"),
    "zip": (b"PK\x03\x04" + b"\x00" * 60, "not a whole"),
    "length beyond the file": (file({"a": entry()}, bytes(8), length=1 << 20), "not a whole"),
    "length 2^64 - 1": (file({"a": entry()}, bytes(8), length=(1 << 64) - 1), "not a whole"),
    "length zero": (file({"a": entry()}, bytes(8), length=0), "not a whole"),
    "huge header": (file(b"{" + b" " * (9 << 20) + b"}"), "a header of"),
    "not text": (file(b'{"\xff\xfe": 1}'), "cannot be read"),
    "not json": (file(b'{"a": }'), "cannot be read"),
    "deep json": (file(b"[" * 100_000 + b"]" * 100_000), "cannot be read"),
    "huge number": (file(ONE[:-4] + b"1" * 5000 + b"]}}"), "cannot be read"),
    "a list": (file([1, 2]), "not a table"),
    "no tensor": (file({}), "no tensor"),
    "duplicate key": (file(ONE + b"," + ONE[1:] + b"}", bytes(8)), "given twice"),
    "duplicate shape": (file(ONE[:-1] + b',"shape":[1]}}', bytes(8)), "given twice"),
    "name that climbs": (file({"../../x": entry()}, bytes(8)), "refused"),
    "name of dots": (file({"a..b": entry()}, bytes(8)), "refused"),
    "name of 1 MB": (file({"x" * (1 << 20): entry()}, bytes(8)), "refused"),
    "name with a newline": (file({"a\nb": entry()}, bytes(8)), "refused"),
    "name with a null": (file({"a\0": entry()}, bytes(8)), "refused"),
    "empty name": (file({"": entry()}, bytes(8)), "refused"),
    "too many tensors": (file({f"t{i}": entry((0,), (0, 0)) for i in range(50_001)}), "50001 tensors"),
    "rank 100,000": (file({"a": entry([1] * 100_000, (0, 4))}, bytes(4)), "shape"),
    "rank 9": (file({"a": entry([1] * 9, (0, 4))}, bytes(4)), "shape"),
    "overflowing shape": (file({"a": entry((0, 1 << 62), (0, 0))}), "shape"),
    "negative shape": (file({"a": entry((-2,))}, bytes(8)), "shape"),
    "boolean shape": (file({"a": entry((True, 2))}, bytes(8)), "shape"),
    "fractional shape": (file({"a": entry((2.0,))}, bytes(8)), "shape"),
    "shape a text": (file({"a": entry() | {"shape": "22"}}, bytes(8)), "shape"),
    "unknown dtype": (file({"a": entry(dtype="OBJECT")}, bytes(8)), "dtype"),
    "dtype a list": (file({"a": entry() | {"dtype": ["F32"]}}, bytes(8)), "dtype"),
    "offsets past the end": (file({"a": entry((4,), (0, 16))}, bytes(8)), "cut or padded"),
    "offsets backwards": (file({"a": entry((2,), (8, 0))}, bytes(8)), "does not take"),
    "offsets of another size": (file({"a": entry((3,), (0, 8))}, bytes(8)), "does not take"),
    "one offset": (file({"a": entry((2,), (0,))}, bytes(8)), "two numbers"),
    "padded": (file({"a": entry()}, bytes(9)), "cut or padded"),
    "cut": (file({"a": entry()}, bytes(7)), "cut or padded"),
    "overlap": (file({"a": entry((2,), (0, 8)), "b": entry((2,), (0, 8))}, bytes(8)), "cannot read"),
    "hole": (file({"a": entry((2,), (0, 8)), "b": entry((2,), (12, 20))}, bytes(20)), "cannot read"),
    "entry not a table": (file({"a": 5}), "needs dtype"),
    "entry with more": (file({"a": entry(code="import os")}, bytes(8)), "needs dtype"),
    "metadata not texts": (file({"__metadata__": {"a": 1}, "a": entry()}, bytes(8)), "metadata"),
    "metadata a list": (file({"__metadata__": [], "a": entry()}, bytes(8)), "metadata"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_a_line(tmp_path, name):
    content, words = HOSTILE[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=words) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # kilobytes


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"a.weight": TENSORS["a.weight"]}, "lacks the tensor 'b'"),
        (TENSORS | {"c": torch.zeros(1)}, "has, beyond the configuration, the tensor 'c'"),
        (TENSORS | {"a.weight": torch.zeros(3, 2)}, r"'a.weight' is torch.float32 \[3, 2\]"),
        (TENSORS | {"a.weight": torch.zeros(2, 3).half()}, r"'a.weight' is torch.float16 \[2, 3\]"),
    ],
)
def test_a_file_that_does_not_fit_the_configuration_is_refused_before_a_tensor_is_read(
    tmp_path, held, words, monkeypatch
):
    write_weights(tmp_path / "w", held, {})
    monkeypatch.setattr("sfumato.core.weights._files", None)  # whoever would read a tensor fails otherwise
    with pytest.raises(CheckpointError, match=words):
        read_weights(tmp_path / "w", specs(TENSORS))
    assert check_header(tmp_path / "w", specs(held))[0] == specs(held)


def test_a_missing_file_is_said_in_a_line(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_weights(tmp_path / "none")
