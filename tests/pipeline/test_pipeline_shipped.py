"""Models that come with the package: found by name, in float32, and refused where a file is not the shipped one."""

import json
import subprocess
import sys

import pytest
import torch
from pipeline_toys import make

import sfumato as sf
from sfumato import assets
from sfumato.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A place of shipped models with one, `small`, and nothing else in the working folder."""
    pipe = make()
    pipe.to(torch.float16)
    folder = pipe.save(tmp_path / "assets" / "small")
    assets.seal(folder)
    monkeypatch.setattr(assets, "HOME", tmp_path / "assets")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "assets"


def test_a_name_is_enough(home):
    assert assets.names() == ["small"]
    assert assets.shipped("large") is None
    pipe = sf.load("small")
    assert {p.dtype for p in pipe.denoiser.parameters()} == {torch.float32}
    assert (
        sf.load("small", dtype=torch.float16).denoiser.net.state_dict().keys() == pipe.denoiser.net.state_dict().keys()
    )
    half = sf.load(home / "small")  # a path is a folder like any other
    assert {p.dtype for p in half.denoiser.parameters()} == {torch.float16}
    assert sf.load("small").sha256() == pipe.sha256()


def test_it_is_called_what_it_is(home, capsys):
    assert main(["inspect", "small"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split(maxsplit=1)[1] == "pipeline that comes with the package"


def test_what_lies_here_goes_before(home):
    other = make().save("small")
    assert sf.load("small").sha256() == sf.load(other).sha256() != sf.load(home / "small").sha256()


def test_a_name_that_is_none_says_what_there_is(home):
    with pytest.raises(sf.InputError, match="there is no smal; with the package comes small"):
        sf.load("smal")


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\1")])
def test_another_file_is_refused(home, damage):
    damage(home / "small" / "model.safetensors")
    with pytest.raises(sf.CheckpointError, match="install the package again"):
        sf.load("small")


def test_what_ships_is_whole():
    for name in assets.names():
        folder = assets.shipped(name)
        assert set(json.loads((folder / assets.HASHES).read_text())) == {p.name for p in folder.iterdir()} - {
            assets.HASHES
        }


def test_loading_one_does_not_wait_for_the_compiler():
    """Arithmetic on weights that are not there yet would import it: a second that nobody has asked for."""
    code = "import sys, sfumato as sf; sf.load('tableau'); assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
