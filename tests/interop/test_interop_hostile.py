"""Hostile files: no code runs, nothing crashes, one line says why, in a second (a slow test) and little memory."""

import json
import subprocess
import sys
from pathlib import Path

import hostile_cases
import pytest
import tiny_folders

import sfumato as sf
from sfumato.interop.single.writing import write_single


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("hostile")
    tiny_folders.sd().save_pretrained(at / "good")
    pipe = sf.load(at / "good")
    write_single(pipe, at / "good.safetensors")
    pipe.save(at / "good-ours")
    return at


@pytest.fixture(scope="module")
def happened(folder):
    """Run every case in one child, and return what came of each."""
    command = [sys.executable, str(Path(hostile_cases.__file__)), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_there_are_sixty_and_more():
    assert len(hostile_cases.CASES) >= 166


@pytest.mark.parametrize("name", hostile_cases.CASES)
def test_it_is_refused_in_one_line(name, happened):
    found = happened[name]
    if name in hostile_cases.HARMLESS:
        assert found["kind"] == "loaded", found["text"]
    else:
        assert found["ours"], f"{found['kind']}: {found['text'][:300]}"
        assert found["kind"] in ("InputError", "CheckpointError")
        assert "\n" not in found["text"]
        assert 10 < len(found["text"]) < 700
    assert found["bytes"] <= 200 << 20


@pytest.mark.slow
def test_none_takes_a_second(happened):
    assert {name: found["seconds"] for name, found in happened.items() if found["seconds"] > 1.0} == {}


def test_no_code_ran(happened, folder):
    assert happened
    assert not (folder / "ran").exists()
