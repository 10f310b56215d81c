"""Saving never overwrites, and notebooks show what was made."""

import base64
import io
import re

import pytest
from PIL import Image

import sfumato as sf
from sfumato.pipeline import read_settings


def test_numbers_go_on_and_nothing_is_overwritten(pipe, tmp_path):
    out = pipe("dog", n=2, seed=5)
    first = out.save(tmp_path / "a" / "b")
    before = {p: p.read_bytes() for p in first}
    second = out.save(tmp_path / "a" / "b")
    assert [p.name for p in first + second] == ["00000-5.png", "00001-6.png", "00002-5.png", "00003-6.png"]
    assert all(p.read_bytes() == data for p, data in before.items())
    (tmp_path / "a" / "b" / "00099-1.png").write_bytes(b"mine")
    assert out.save(tmp_path / "a" / "b")[0].name == "00100-5.png"


def test_a_name_that_is_taken_meanwhile_is_left_alone(pipe, tmp_path, monkeypatch):
    """Another process writes 00000-5.png after the folder was listed."""
    out = pipe("dog", n=2, seed=5)
    (tmp_path / "00000-5.png").write_bytes(b"theirs")
    monkeypatch.setattr("sfumato.pipeline.output._NUMBERED", re.compile("nothing"))
    assert [p.name for p in out.save(tmp_path)] == ["00001-5.png", "00002-6.png"]
    assert (tmp_path / "00000-5.png").read_bytes() == b"theirs"


def test_a_folder_that_cannot_be_used_is_an_input_error(pipe, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(sf.InputError, match="give another folder"):
        pipe(n=1).save(tmp_path / "file")


def test_a_full_disk_leaves_no_half_picture(pipe, tmp_path, monkeypatch):
    real = open

    def full(path, mode="r", *rest, **more):
        file = real(path, mode, *rest, **more)
        if "x" in mode:

            def write(data):
                real(path, "ab").write(data[:10])
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(file, "write", write, raising=False)
        return file

    class File(io.FileIO):
        def write(self, data):
            super().write(data[:10])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        "builtins.open", lambda path, mode="r", **k: File(path, "xb") if "x" in mode else full(path, mode)
    )
    with pytest.raises(sf.SfumatoError, match="No space left"):
        pipe(n=1).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_points_are_one_picture_with_their_numbers(cloud, tmp_path):
    out = cloud(n=10, seed=3)
    assert len(out.images) == 1
    (path,) = out.save(tmp_path)
    assert read_settings(path).request["n"] == 10
    rows = path.with_suffix(".csv").read_text().splitlines()[1:]
    assert [[float(v) for v in row.split(",")] for row in rows] == out.tensor.tolist()


def test_notebooks_see_the_sheet(pipe):
    out = pipe(["cat", "dog"], n=2)
    with Image.open(io.BytesIO(out._repr_png_())) as image:
        assert image.tobytes() == out.grid().tobytes()
    page = out._repr_html_()
    data = base64.b64decode(re.search(r"base64,([^\"]+)", page).group(1))
    assert data == out._repr_png_()
    assert "4 samples, seeds 0 to 3, DEIS, 3 steps, guidance 2" in page
