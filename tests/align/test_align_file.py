"""Grid files: written once, read back, refused where they are none."""

import json

import pytest

from sfumato.align import read_levels, write_grid
from sfumato.core import InputError


def test_a_grid_file_reads_back(tmp_path):
    path = tmp_path / "grid.json"
    write_grid(path, (3.0, 1.0, 0.1), {"steps": 2})
    assert read_levels(path) == (3.0, 1.0, 0.1)
    assert json.loads(path.read_text())["steps"] == 2
    with pytest.raises(InputError, match="not overwritten"):
        write_grid(path, (2.0, 1.0), {})
    assert read_levels(path) == (3.0, 1.0, 0.1)
    with pytest.raises(InputError, match="cannot write"):
        write_grid(tmp_path / "no" / "grid.json", (2.0, 1.0), {})


@pytest.mark.parametrize("text", ["", "[1]", '{"levels": 3}', '{"levels": ["a"]}', "{}"])
def test_what_is_no_grid_file_is_refused(tmp_path, text):
    path = tmp_path / "grid.json"
    path.write_text(text)
    with pytest.raises(InputError, match="no grid file"):
        read_levels(path)
    with pytest.raises(InputError, match="cannot read"):
        read_levels(tmp_path / "nothing.json")
