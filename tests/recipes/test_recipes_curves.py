"""The picture of losses: runs follow one another by pictures, and a step that a resumed run repeated counts once."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def curves():
    spec = importlib.util.spec_from_file_location("curves", Path(__file__).parents[2] / "tools" / "curves.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(folder, batch, losses):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"train": {"batch_size": batch}}))
    rows = [*({"step": step, "loss": loss} for step, loss in losses), {"step": 99, "evaluated": 1}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_runs_follow_one_another(tmp_path, curves, monkeypatch):
    written(tmp_path / "a" / "one", 4, [(1, 9.0), (2, 8.0), (1, 7.0), (2, 6.0)])
    written(tmp_path / "b" / "old", 2, [(5, 3.0)])
    written(tmp_path / "b" / "young", 2, [(5, 2.0), (10, 1.0)])
    assert curves.curve(curves.latest(tmp_path / "a")) == ("a", [4, 8], [7.0, 6.0])
    assert curves.latest(tmp_path / "b") == tmp_path / "b" / "young"
    drawn = {}
    monkeypatch.setattr(curves, "lines", lambda *given, **_: drawn.update(given[4]))
    monkeypatch.setattr(
        sys, "argv", ["curves", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "p.png")]
    )
    curves.main()
    assert drawn == {"a": ([0.004, 0.008], [7.0, 6.0]), "b": ([0.018, 0.028], [2.0, 1.0])}


def test_the_picture_is_one(tmp_path, curves, monkeypatch):
    written(tmp_path / "a" / "one", 4, [(1, 2.0), (2, 0.5)])
    monkeypatch.setattr(sys, "argv", ["curves", str(tmp_path / "a"), "--out", str(tmp_path / "p.png")])
    curves.main()
    assert Image.open(tmp_path / "p.png").width > 500
    with pytest.raises(SystemExit, match="holds no run"):
        curves.latest(tmp_path)
