"""Checkpoints survive what can happen to them: kills, full and failing disks, flipped bytes, a second writer."""

from __future__ import annotations

import builtins
import errno
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_toy import CONTEXT

from sfumato.core import CheckpointError
from sfumato.core import weights as weights_module
from sfumato.train.checkpoint import checkpoints, latest, locked, save, verify

PARTS = ("model", "ema", "optim")


def parts(step: int, size: int = 64) -> dict[str, dict[str, torch.Tensor]]:
    return {part: {"w": torch.full((size,), float(step)), "b": torch.full((3,), float(step))} for part in PARTS}


def whole(root: Path) -> int:
    """Return the step of the newest whole checkpoint, all of whose tensors must be of that step."""
    found = latest(root, lambda line: None)
    assert found is not None
    assert found.state == {"step": found.step}
    for part in PARTS:
        for tensor in found.read(part).values():
            assert bool((tensor == found.step).all())
    return found.step


def put(root: Path, step: int, keep: int = 3, size: int = 64) -> None:
    save(root, step, parts(step, size), {"step": step}, keep)


@pytest.fixture(scope="module")
def memory():
    """A folder in memory where the system has one: there, bringing a file to the disk takes no time."""
    shared = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


def test_save_and_read_back_and_keep_the_last(tmp_path):
    root = tmp_path / "checkpoints"
    assert latest(root) is None
    for step in (0, 10, 20, 30):
        put(root, step, keep=2)
    assert [p.name for p in checkpoints(root)] == ["step-00000030", "step-00000020"]
    assert sorted(os.listdir(root)) == ["LATEST", "step-00000020", "step-00000030"]
    assert (root / "LATEST").read_text() == "step-00000030\n"
    assert whole(root) == 30
    mask = os.umask(0o022)
    os.umask(mask)
    for file in (root / "step-00000030").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def keep_saving(root: str, size: int, done: object) -> None:
    torch.set_num_threads(1)
    for step in range(1, 10_000):
        put(Path(root), step, keep=2, size=size)
        done.value = step  # type: ignore[attr-defined]


def kill_saves(root: Path, kills: int, size: int) -> int:
    """Kill a saving process at random instants; return how often a checkpoint that it had finished was lost."""
    draw, lost = random.Random(size), 0
    put(root, 0, size=size)
    for _ in range(kills):
        done = CONTEXT.Value("i", 0, lock=False)
        shutil.rmtree(root)
        put(root, 0, size=size)
        process = CONTEXT.Process(target=keep_saving, args=(str(root), size, done))
        process.start()
        while done.value < 1:
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.06))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        lost += not done.value <= whole(root) <= done.value + 1
    return lost


@pytest.mark.parametrize("kills", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_kills_lose_no_finished_checkpoint(kills, memory):
    assert kill_saves(memory / "c", kills, 20_000) == 0


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [1, 8, 64])
def test_two_hundred_kills_lose_no_finished_checkpoint(tmp_path, megabytes):
    assert kill_saves(tmp_path / "c", {1: 100, 8: 70, 64: 30}[megabytes], megabytes * (1 << 20) // 12) == 0


def test_the_order_of_system_calls_survives_a_power_cut(tmp_path, monkeypatch):
    """Every byte is brought to the disk before the name that promises it, and every name after it."""
    put(tmp_path / "c", 1)
    calls: list[tuple[str, str]] = []
    fsync, rename, write = os.fsync, os.rename, weights_module._files.save_file

    def name(path: object) -> str:
        return str(Path(os.fspath(path)).relative_to(tmp_path))  # type: ignore[arg-type]

    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(("fsync", name(os.readlink(f"/proc/self/fd/{fd}")))), fsync(fd))
    )
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append(("rename", f"{name(a)} {name(b)}")), rename(a, b)))
    monkeypatch.setattr(
        weights_module._files, "save_file", lambda t, p, m: (calls.append(("write", name(p))), write(t, p, m))
    )
    put(tmp_path / "c", 2)
    new, pid = "c/.new-step-00000002", os.getpid()
    expected = []
    for part in PARTS:
        aside = f"{new}/.{part}.safetensors.{pid}"
        expected += [
            ("write", aside),
            ("fsync", aside),
            ("rename", f"{aside} {new}/{part}.safetensors"),
            ("fsync", new),
        ]
    expected += [("fsync", f"{new}/state.json"), ("fsync", f"{new}/manifest.json"), ("fsync", new)]
    expected += [("rename", f"{new} c/step-00000002"), ("fsync", "c")]
    expected += [("fsync", f"c/.LATEST.{pid}"), ("rename", f"c/.LATEST.{pid} c/LATEST"), ("fsync", "c")]
    assert calls == expected


def failing(monkeypatch, number: int, at: int) -> list[int]:
    """Make the `at`-th call that touches the disk fail with `number`; return the list that counts the calls."""
    count = [0]

    def wrap(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == at:
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("open", "fsync", "rename", "mkdir", "chmod"):
        wrap(os, name)
    wrap(builtins, "open")
    wrap(weights_module._files, "save_file")
    return count


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EMFILE, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_fails_at_any_call_leaves_the_old_checkpoint_and_one_line(memory, monkeypatch, number):
    root, faults, at = memory / "faults", 0, 0
    while True:
        at += 1
        shutil.rmtree(root, ignore_errors=True)
        put(root, 1)
        with monkeypatch.context() as patch:
            count = failing(patch, number, at)
            try:
                put(root, 2)
                error = None
            except CheckpointError as caught:
                error = caught
        if error is None and count[0] < at:
            break  # a save makes fewer calls than that
        faults += 1
        assert whole(root) in (1, 2)
        if error is not None:
            assert error.exit_code == 4
            assert "\n" not in str(error)
            assert os.strerror(number) in str(error)
            assert "the earlier checkpoints are untouched" in str(error)
        put(root, 3)
        assert whole(root) == 3
        assert not [p for p in root.iterdir() if p.name.startswith(".")]
    assert faults >= 20


def test_a_really_full_disk_keeps_the_old_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        put(disk / "c", 1, size=10_000)  # 120 kB
        with pytest.raises(CheckpointError, match=r"(?i)no space left"):
            put(disk / "c", 2, size=30_000)
        assert whole(disk / "c") == 1
        put(disk / "c", 3, size=10_000)
        assert whole(disk / "c") == 3
    finally:
        subprocess.run(["umount", disk], check=True)


def save_under_a_limit(root: str, limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        put(Path(root), 2, size=100_000)
    except CheckpointError as error:
        os._exit(error.exit_code)


def test_a_file_that_may_not_grow_exits_with_4(tmp_path):
    put(tmp_path / "c", 1)
    process = CONTEXT.Process(target=save_under_a_limit, args=(str(tmp_path / "c"), 50_000))
    process.start()
    process.join()
    assert process.exitcode == 4
    assert whole(tmp_path / "c") == 1


def test_a_folder_that_is_gone_is_made_again_and_a_file_in_its_place_is_said(tmp_path):
    put(tmp_path / "c", 1)
    shutil.rmtree(tmp_path / "c")
    put(tmp_path / "c", 2)
    assert whole(tmp_path / "c") == 2
    (tmp_path / "f").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot save the checkpoint"):
        put(tmp_path / "f", 1)
    assert (tmp_path / "f").read_text() == "a file"


@pytest.fixture(scope="module")
def two(memory):
    root = memory / "two"
    for step in (1, 2):
        put(root, step)
    return root


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_damage_anywhere_is_found_and_the_previous_checkpoint_used(two, memory, data):
    root = memory / "damaged"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(two, root)
    newest = root / "step-00000002"
    path = newest / data.draw(st.sampled_from(sorted(os.listdir(newest))))
    content = path.read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "remove", "longer", "empty"]))
    if kind == "flip":
        # blanks between the words of the manifest carry nothing
        at = data.draw(st.integers(0, len(content) - 1).filter(lambda i: content[i : i + 1].strip()))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << data.draw(st.integers(0, 7)))]) + content[at + 1 :])
    elif kind == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 2))])
    elif kind == "longer":
        path.write_bytes(content + b"x")
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    said: list[str] = []
    found = latest(root, said.append)
    assert found is not None
    assert found.step == 1
    assert len(said) == 1
    assert "step-00000002" in said[0]
    assert "\n" not in said[0]


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(two, tmp_path):
    root = tmp_path / "c"
    shutil.copytree(two, root)
    (root / "step-00000002" / "model.safetensors").write_bytes(b"torn")
    put(root, 2)
    assert whole(root) == 2


def test_no_whole_checkpoint_is_an_error_not_a_new_start(two, tmp_path):
    root = tmp_path / "c"
    shutil.copytree(two, root)
    for path in checkpoints(root):
        (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        latest(root, lambda line: None)


def test_a_manifest_cannot_point_outside_its_folder(two, tmp_path):
    root = tmp_path / "c"
    shutil.copytree(two, root)
    manifest = root / "step-00000002" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"model.safetensors"', '"../step-00000001/model.safetensors"'))
    with pytest.raises(CheckpointError):
        verify(root / "step-00000002")


def hold(folder: str, held: object) -> None:
    with locked(Path(folder)):
        held.value = 1  # type: ignore[attr-defined]
        time.sleep(60)


def test_two_writers_at_one_run(tmp_path):
    held = CONTEXT.Value("i", 0, lock=False)
    process = CONTEXT.Process(target=hold, args=(str(tmp_path), held))
    process.start()
    while not held.value:
        time.sleep(0.005)
    with pytest.raises(CheckpointError, match="being written by another process"), locked(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(tmp_path):  # a killed writer holds nothing
        pass
