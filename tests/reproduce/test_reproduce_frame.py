"""The frame: the catalogue is whole, bars decide, rows are never lost, a run overwrites nothing."""

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import sfumato.reproduce.command as command
from sfumato.cli import main
from sfumato.core import InputError
from sfumato.reproduce import CATALOGUE, Claim, Context, Entry, Measured, System, execute, last_report

CATALOGUE_OF_THE_ISSUE = """
ddpm improved-ddpm adm ddim ncsn score-sde edm dpm-solver cfg cold-diffusion rectified-flow consistency-models
align-your-steps datasaurus fid vae vq-vae dvae igpt dalle muse ldm glide dalle2 imagen cascaded stable-diffusion sdxl
sd3 dit pixart hunyuan-dit lumina diffit emu dalle3 sdedit inpainting prompt-to-prompt null-text instruct-pix2pix
swap-anything controlnet controlnet-plus-plus lora-adapter instant-id story-diffusion diffusion-dpo
progressive-distillation guided-distillation lcm add ladd diffusion2gan sdxs imagine-flash perflow tgate edgefusion
curation nightshade audio video-ldm video-dit text-to-3d medical planning protein
"""
IDS = CATALOGUE_OF_THE_ISSUE.split()


def system(*values: float) -> System:
    claims = (
        Claim(key="small", says="it is small", measure="a number", high=1.0),
        Claim(key="large", says="it is large", reported="9", low=2.0),
        Claim(key="never", says="it beats ImageNet", unshown="needs ImageNet"),
    )

    def run(context):
        yield from (Measured(key, value, "seen") for key, value in zip(("small", "large"), values))

    return System(entry=CATALOGUE["ddpm"], claims=claims, protocol="A protocol.", seed=7, run=run)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_catalogue_is_the_issues():
    assert sorted(CATALOGUE) == sorted(IDS)
    assert all(re.fullmatch(r"|\d{4}\.\d{4,5}", e.arxiv) for e in CATALOGUE.values())


def test_bars_decide():
    assert [row.status for row in system().judge([])] == ["fail", "fail", "not shown"]
    good = system().judge([Measured("small", 1.0), Measured("large", 2.0)])
    assert [row.status for row in good] == ["pass", "pass", "not shown"]
    bad = system().judge([Measured("small", math.nan), Measured("large", 1.999)])
    assert [row.status for row in bad] == ["fail", "fail", "not shown"]
    assert [row.bar for row in bad] == ["≤ 1", "≥ 2", ""]
    assert bad[0].as_json()["value"] == "nan"


def test_a_claim_needs_a_bar_or_a_reason():
    for wrong in ({}, {"high": 1.0, "unshown": "why"}):
        with pytest.raises(ValueError, match="either a bar or a reason"):
            Claim(key="k", says="s", **wrong)


def test_measuring_what_is_not_claimed_is_refused():
    with pytest.raises(ValueError, match="does not claim"):
        system().judge([Measured("other", 1.0)])


def test_a_run_overwrites_nothing(tmp_path):
    first = execute(system(0.5, 3.0), out=tmp_path)
    second = execute(system(0.5, 1.0), out=tmp_path)
    assert first.passed
    assert not second.passed
    assert first.folder != second.folder
    found = json.loads((Path(first.folder) / "rows.json").read_text())
    assert found["rows"][0]["value"] == 0.5
    assert found["passed"] is True
    assert {"system", "arxiv", "protocol", "seed", "seconds", "cpu_seconds", "when"} <= set(found)
    stamps = [Path(r.folder).name for r in (first, second)]
    newest = max(stamps)
    assert last_report(tmp_path, "ddpm")["folder"].endswith(newest)


def test_an_unreadable_result_is_passed_over(tmp_path):
    execute(system(0.5, 3.0), out=tmp_path)
    torn = tmp_path / "reproduce" / "ddpm" / "99990101T000000Z-ffff"
    torn.mkdir()
    (torn / "rows.json").write_text('{"rows": [')
    assert last_report(tmp_path, "ddpm")["passed"] is True


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*--out"):
        execute(system(0.5, 3.0), out=tmp_path / "file")


@pytest.mark.parametrize(("values", "code"), [((0.5, 3.0), 0), ((0.5, 1.0), 1), ((0.5,), 1)])
def test_exit_code_and_rows(monkeypatch, tmp_path, capsys, values, code):
    monkeypatch.setattr(Entry, "load", lambda self: system(*values))
    monkeypatch.setattr(Entry, "exists", True)
    assert command.run(arguments("ddpm", "--out", str(tmp_path))) == code
    shown = capsys.readouterr().out
    assert ("1 fail" in shown) == (code == 1)
    assert command.run(arguments("ddpm", "--out", str(tmp_path), "--json")) == code
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] == (code == 0)
    assert [row["key"] for row in found["rows"]] == ["small", "large", "never"]


def test_unknown_names_name_the_nearest():
    with pytest.raises(InputError, match="did you mean 'datasaurus'") as caught:
        command.run(arguments("datasaurs"))
    assert caught.value.exit_code == 2
    with pytest.raises(InputError, match="not reproduced yet"):
        command.run(arguments("nightshade"))


def test_the_command_line_says_it_in_one_line(capsys):
    assert main(["reproduce", "datasaurs"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "did you mean 'datasaurus'" in told


def test_list_shows_every_system_with_its_last_result(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Entry, "exists", property(lambda self: self.id in ("ddpm", "ddim")))
    execute(system(0.5, 1.0), out=tmp_path)
    assert command.run(arguments("--list", "--json", "--out", str(tmp_path))) == 0
    found = {s["id"]: s for s in json.loads(capsys.readouterr().out)["systems"]}
    assert sorted(found) == sorted(IDS)
    assert found["ddpm"]["result"] == "fail"
    assert found["ddpm"]["count"] == {"pass": 1, "fail": 1, "not shown": 1}
    assert found["ddim"]["result"] == "not run"
    assert all(found[i]["result"] == "missing" for i in IDS if i not in ("ddpm", "ddim"))
    command.run(arguments("--list", "--out", str(tmp_path)))
    shown = capsys.readouterr().out
    assert all(name in shown for name in IDS)


def test_listing_needs_no_torch(tmp_path):
    code = (
        "import sys; from sfumato.reproduce.command import main; "
        f"main(['--list', '--json', '--out', {str(tmp_path)!r}]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_what_is_trained_is_kept_by_its_configuration(tmp_path):
    fits = []

    def fit(net):
        fits.append(1)
        nn.init.constant_(net.weight, float(len(fits)))

    def fitted(config, **more):
        context = Context(cache=tmp_path, **more)
        net = context.fitted("line", config, nn.Linear(2, 2), fit)
        assert context.trained["line"] >= 0.0
        return net.weight[0, 0].item(), context.kept

    assert fitted({"lr": 1.0}) == (1.0, [])
    assert fitted({"lr": 1.0}) == (1.0, ["line"])
    assert fitted({"lr": 2.0})[0] == 2.0
    assert fitted({"lr": 1.0}, fresh=True)[0] == 3.0
    assert fitted({"lr": 1.0})[0] == 3.0
    for path in (tmp_path / "reproduce").iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    assert fitted({"lr": 1.0})[0] == 4.0, "a damaged file is trained again"
    assert fitted({"lr": 1.0}) == (4.0, ["line"])


def test_figures_are_written_only_where_wanted(tmp_path):
    from matplotlib.figure import Figure

    Context(folder=None).draw("nothing", lambda: pytest.fail("painted for nobody"))
    Context(folder=tmp_path).draw("empty", lambda: Figure(figsize=(1, 1)))
    assert (tmp_path / "empty.png").read_bytes()[:4] == b"\x89PNG"
