"""Batch k is a pure function of (seed, k): for any workers, any world, any start; and nothing is left running."""

import contextlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato import data


def numbers(n):
    return data.Tensors(torch.arange(n).float()[:, None], {"y": torch.arange(n)})


def loader(n=10, **settings):
    return data.Loader(numbers(n), **({"batch_size": 4, "seed": 3} | settings))


def equal(a, b):
    return (
        torch.equal(a.x0, b.x0)
        and a.cond.keys() == b.cond.keys()
        and all(torch.equal(a.cond[k], b.cond[k]) for k in a.cond)
    )


@pytest.fixture
def folder(tmp_path):
    for k in range(10):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        (tmp_path / str(k % 3)).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / str(k % 3) / f"{k}.png")
    return data.ImageFolder(path=str(tmp_path), size=8, crop=data.RandomCrop(), flip=0.5, labels=data.SubFolders())


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (10, 10), (3, 8), (1, 2), (7, 1)])
def test_every_row_is_shown_once_in_each_epoch(n, batch_size):
    rows = loader(n, batch_size=batch_size)
    shown = list(itertools.chain.from_iterable(rows.indices(step) for step in range(6 * n)))
    epochs = [shown[k * n : (k + 1) * n] for k in range(6 * batch_size)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert n < 7 or len(set(map(tuple, epochs))) == len(epochs)


def test_the_order_depends_on_the_seed_and_any_step_can_be_asked_for():
    rows = loader(seed=3)
    forwards = [rows.indices(step) for step in range(40)]
    assert [loader(seed=3).indices(step) for step in reversed(range(40))] == forwards[::-1]
    assert [loader(seed=4).indices(step) for step in range(40)] != forwards
    assert loader(seed=3).indices(10**12) == rows.indices(10**12)


def test_orders_are_uniform():
    # where row 0 of 5 comes in 4000 epochs: chi-squared with 4 degrees of freedom, 0.1 % bound
    rows = loader(5, batch_size=5)
    places = torch.bincount(torch.tensor([rows.indices(step).index(0) for step in range(4000)]), minlength=5)
    assert ((places - 800) ** 2 / 800).sum() < 18.5


def test_batches_are_the_rows_that_indices_name(folder):
    rows = data.Loader(folder, batch_size=4, seed=1)
    for step in (0, 2, 5):
        seeds = [sf.core.fold(1, step) + row for row in range(4)]
        assert rows.row_seeds(step) == seeds
        assert equal(rows.batch(step), folder.batch(rows.indices(step), sf.Noise(seeds)))
    # the second epoch shows the same picture in another crop
    first, later = rows.batch(0), [rows.batch(step) for step in (2, 3, 4, 5)]
    where = [
        (b, r) for b, s in zip(later, (2, 3, 4, 5)) for r, i in enumerate(rows.indices(s)) if i == rows.indices(0)[0]
    ]
    assert not any(torch.equal(b.x0[r], first.x0[0]) for b, r in where)


def test_iteration_starts_at_the_given_step():
    rows = loader(start_step=7)
    for step, batch in zip(range(7, 12), rows):
        assert equal(batch, rows.batch(step))
    assert equal(next(iter(rows)), rows.batch(7))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_batch_of_one_process(folder, world):
    whole = data.Loader(folder, batch_size=4, seed=1)
    parts = [data.Loader(folder, batch_size=4, seed=1, rank=rank, world=world) for rank in range(world)]
    for step in range(6):
        assert list(itertools.chain(*(part.indices(step) for part in parts))) == whole.indices(step)
        assert list(itertools.chain(*(part.row_seeds(step) for part in parts))) == whole.row_seeds(step)
        assert torch.equal(torch.cat([part.batch(step).x0 for part in parts]), whole.batch(step).x0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_give_the_same_batches_bit_for_bit(folder, workers):
    plain = data.Loader(folder, batch_size=4, seed=1, start_step=3)
    state = torch.get_rng_state()
    handlers = [signal.getsignal(s) for s in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)]
    ahead = iter(data.Loader(folder, batch_size=4, seed=1, start_step=3, workers=workers))
    for _, one, other in zip(range(12), ahead, plain):
        assert equal(one, other)
    assert [signal.getsignal(s) for s in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)] == handlers
    assert torch.equal(torch.get_rng_state(), state)
    pids = children(os.getpid())
    assert len(pids) >= workers
    ahead.close()
    assert not alive(pids, 30)


def test_a_loader_can_be_sent_to_another_process(folder):
    # as workers need it where processes are spawned, not forked
    rows = data.Loader(folder, batch_size=4, seed=1)
    assert equal(pickle.loads(pickle.dumps(rows)).batch(5), rows.batch(5))


def test_a_mistake_in_a_worker_arrives_as_the_same_line(folder):
    first = folder.names[0]
    (Path(folder.path) / first).write_bytes(b"changed")
    messages = []
    for workers in (0, 2):
        with pytest.raises(sf.InputError, match="has changed") as caught:
            list(itertools.islice(data.Loader(folder, batch_size=5, workers=workers), 2))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_worker_that_dies_is_one_line(folder):
    ahead = iter(data.Loader(folder, batch_size=2, workers=2))
    before = children(os.getpid())
    next(ahead)
    mine = children(os.getpid()) - before
    os.kill(min(mine), signal.SIGKILL)
    with pytest.raises(sf.SfumatoError, match="a loader worker died") as caught:
        list(itertools.islice(ahead, 100))
    assert "\n" not in str(caught.value)
    assert not alive(mine, 30)


SCRIPT = """
import multiprocessing, os, signal, sys, time
from sfumato import data
if len(sys.argv) > 3:
    multiprocessing.set_start_method(sys.argv[3])
signal.signal(signal.SIGTERM, lambda *_: print("term", flush=True))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
ahead = iter(data.Loader(data.ImageFolder(path=sys.argv[1], size=8), batch_size=2, workers=2))
next(ahead)
if sys.argv[2] == "step":
    signal.signal(signal.SIGINT, lambda *_: None)  # a run that finishes its step first
try:
    print("ready", flush=True)
    if sys.argv[2] == "raise":
        raise SystemExit(7)
    for k in range(10**9):
        next(ahead)
        if k % 10 == 0:
            print("step", flush=True)
        time.sleep(0.001)
except KeyboardInterrupt:  # also in the middle of the sleep
    raise SystemExit(130)
"""


STARTED = []


@pytest.fixture(autouse=True)
def _leave_nothing():
    """Kill what a failed test has left, which would slow down all tests after it."""
    yield
    while STARTED:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(STARTED.pop().pid, signal.SIGKILL)


def start(folder, *what):
    command = [sys.executable, "-c", SCRIPT, folder.path, *what]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    STARTED.append(process)
    assert process.stdout.readline() == "ready\n"
    return process, children(process.pid)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the processes in /proc")
@pytest.mark.parametrize(("how", "code"), [("raise", 7), ("interrupt", 130)])
def test_nothing_is_left_running(folder, how, code):
    process, workers = start(folder, how)
    if how == "interrupt":
        assert len(workers) == 2
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to every process
    assert process.wait(600) == code, process.stderr.read()
    if how == "raise":  # an interrupt may find torch's sharing thread in the middle of an answer, and it says so
        assert process.stderr.read() == ""
    assert not alive(workers, 30)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the processes in /proc")
def test_workers_outlive_signals_to_all_and_not_their_parent(folder):
    process, workers = start(folder, "step")
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGTERM)
    while process.stdout.readline() != "term\n":
        pass
    assert [process.stdout.readline() for _ in range(5)] == ["step\n"] * 5
    assert alive(workers, 0) == workers
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(600) == -signal.SIGKILL
    assert not alive(workers, 30)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the processes in /proc")
def test_workers_of_a_fork_server_end_with_a_killed_parent(folder):
    # Python 3.14's default on Linux: the workers' own parent is then the server, which outlives ours while they live
    process, helpers = start(folder, "step", "forkserver")
    workers = set().union(*(children(helper) for helper in helpers))
    assert len(workers) == 2
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(600) == -signal.SIGKILL
    assert not alive(workers | helpers, 30)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 5, "world": 2}, "batch_size 5 does not divide into 2"),
        ({"rank": 2, "world": 2}, "rank 2 is not one of 2"),
        ({"workers": -1}, "workers -1"),
        ({"prefetch": 0}, "prefetch 0"),
        ({"start_step": -1}, "start_step -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, reason):
    with pytest.raises(sf.InputError, match=reason):
        loader(**settings)
    with pytest.raises(sf.InputError, match="step -1"):
        loader().indices(-1)


def children(pid):
    """The processes whose parent is `pid`."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def alive(pids, seconds):
    """Those of `pids` that still run after at most `seconds`."""
    end = time.monotonic() + seconds
    while True:
        left = {p for p in pids if Path(f"/proc/{p}").is_dir() and " Z " not in Path(f"/proc/{p}/stat").read_text()}
        if not left or time.monotonic() >= end:
            return left
        time.sleep(0.05)
