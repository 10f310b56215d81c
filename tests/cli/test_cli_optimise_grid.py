"""`sfumato optimise-grid`: what it writes, `sample --grid` takes; stopped, it keeps what it has."""

import json

import pytest
import torch

import sfumato as sf
from sfumato.align import Aligned, times
from sfumato.cli import main
from sfumato.nets import MLPConfig, UNetConfig
from sfumato.pipeline import Defaults, Points
from sfumato.pipeline.metadata import read_settings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    denoiser = sf.Preconditioned(MLPConfig(width=8, layers=1).build(), sf.VPLinear(), sf.Eps())
    pipe = sf.Pipeline(denoiser=denoiser, shape=(2,), modality=Points(), defaults=Defaults(steps=3))
    return pipe.save(tmp_path_factory.mktemp("model") / "m")


def test_a_grid_is_found_written_and_sampled_with(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["optimise-grid", str(model), "--steps", "4", "--data", "datasaurus", "--draws", "8", "-n", "40"]
    assert main([*words, "--out", "g.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = json.loads((tmp_path / "g.json").read_text())
    assert told["levels"] == found["levels"]
    assert len(found["levels"]) == 5
    assert found["distance"]["found"] <= found["distance"]["first"]
    assert main(["sample", str(model), "--grid", "g.json", "-n", "8", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["request"]["grid"] == told["times"] == times(sf.VPLinear(), found["levels"]).tolist()
    assert read_settings(out["paths"][0]).request["grid"] == told["times"]
    assert main(["sample", str(model), "--grid", "g.json", "--steps", "9", "-n", "8", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["request"]["grid"]) == 10
    assert main([*words, "--out", "g.json"]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert main(["sample", str(model), "--grid", "none.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_keeps_the_best_so_far(model, tmp_path, capsys, monkeypatch):
    import sfumato.align

    def interrupted(*_, **__):
        yield Aligned(levels=(9.0, 1.0, 0.1), cost=2.0, held_out=0.5, start=0.7)
        raise KeyboardInterrupt

    monkeypatch.setattr(sfumato.align, "optimise", interrupted)
    out = tmp_path / "g.json"
    assert main(["optimise-grid", str(model), "--steps", "2", "--data", "datasaurus", "--out", str(out)]) == 130
    found = json.loads(out.read_text())
    assert found["levels"] == [9.0, 1.0, 0.1]
    assert found["finished"] is False
    assert "0.7 -> 0.5" in capsys.readouterr().out


def test_data_of_another_shape_is_refused(model, tmp_path, capsys):
    words = ["optimise-grid", str(model), "--data", "digits", "--out", str(tmp_path / "g.json")]
    assert main(words) == 2
    assert "the data is (1, 8, 8), the model (2,)" in capsys.readouterr().err
    assert not (tmp_path / "g.json").exists()


def test_a_model_without_classes_takes_data_with_classes(tmp_path, capsys):
    torch.manual_seed(0)
    config = UNetConfig(
        in_channels=1, out_channels=1, channels=8, multipliers=(1,), layers=1, attention=(), groups=2, head_width=None
    )
    denoiser = sf.Preconditioned(config.build(), sf.VPLinear(), sf.Eps())
    path = sf.Pipeline(denoiser=denoiser, shape=(1, 8, 8)).save(tmp_path / "m")
    words = [
        "optimise-grid",
        str(path),
        "--steps",
        "2",
        "--data",
        "digits",
        "--draws",
        "4",
        "-n",
        "20",
        "--solver",
        "ddim",
    ]
    assert main([*words, "--out", str(tmp_path / "g.json")]) == 0
    assert "distance of samples" in capsys.readouterr().out
