"""The command line: exit codes, one-line errors, and nothing heavy imported for help."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import sfumato as sf
from sfumato.cli import COMMANDS, main
from sfumato.recipes import RECIPES, override
from sfumato.solvers import DDIM

HEAVY = ("torch", "numpy", "scipy", "rich", "tyro", "PIL", "safetensors", "matplotlib", "sklearn")


def python(code, **more):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False, **more
    )


@pytest.mark.parametrize(
    "code",
    [
        "import sfumato",
        "from sfumato.cli import main\nassert main(['--help']) == 0",
        "from sfumato.cli import main\nassert main(['--version']) == 0",
        "from sfumato.cli import main\nassert main(['sampel']) == 2\nassert main(['sample']) == 2",
        "from sfumato.cli import COMMANDS, main\nfor name in COMMANDS:\n try: main([name, '--help'])\n"
        " except SystemExit as e: assert e.code == 0, name",
    ],
)
def test_import_and_help_need_nothing_heavy(code):
    done = python(f"{code}\nimport sys\nassert not [m for m in {HEAVY} if m in sys.modules], sys.modules.keys()")
    assert done.returncode == 0, done.stderr


def test_every_command_has_help_with_an_example(capsys):
    for name, (_, says) in COMMANDS.items():
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert f"usage: sfumato {name}" in text
        assert re.search(rf"examples?:\s+sfumato {name}", text), name
        assert says


def test_bare_call_and_version(capsys):
    assert main([]) == 2
    assert "sfumato demo" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sfumato {sf.__version__}\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    recipe = override(RECIPES["digits"](), ["--net.channels", "8", "--net.groups", "2", "--net.head_width", "8"])
    pipe = recipe.pipeline(recipe.denoiser())
    pipe.defaults = sf.pipeline.Defaults(steps=2)
    return pipe.save(tmp_path_factory.mktemp("model") / "m")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("sampel", 2, "there is no command 'sampel'; did you mean sample?"),
        (
            "sample MODEL 3 --setps 3",
            2,
            "there is no option --setps; did you mean --steps? (see sfumato sample --help)",
        ),
        ("sample", 2, "required: MODEL"),
        ("sample MODEL -n two", 2, "argument -n: invalid int value: 'two'"),
        ("sample MODEL eleven", 2, "no class is called 'eleven'"),
        ("sample MODEL 3 --solver eular", 2, "did you mean 'euler'"),
        ("sample MODEL 3 --device nowhere", 2, "--device nowhere cannot be used here"),
        ("sample MODEL 3 --like x.png", 2, "leave out prompt"),
        ("sample nowhere", 2, "there is no nowhere"),
        ("sample BROKEN", 4, "sfumato.json"),
        ("train digts", 2, "did you mean digits?"),
        ("train", 2, "give a recipe or a run"),
        ("train digits --train.lrr 1", 2, "did you mean 'lr'"),
        ("train digits --net.num_classes 9 --out OUT", 2, "give --net.num_classes 10"),
        ("train MODEL", 4, "config.json"),
        ("evaluate MODEL", 2, "give --data"),
        ("evaluate MODEL --data datasaurus", 2, "evaluate it against the data that it was trained on"),
        ("evaluate MODEL --data digits --against MODEL/sfumato.json", 2, "does not hold figures"),
        ("evaluate MODEL --data digits --judge MODEL", 2, "--judge is for models that follow captions"),
        ("inspect nowhere", 2, "there is no nowhere"),
        ("reproduce dppm", 2, "'ddpm'"),
        ("bench nothing", 2, "there is no benchmark 'nothing'"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(model, tmp_path, capsys, monkeypatch, words, code, message):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sfumato.json").write_text("{}")
    places = {"MODEL": model, "BROKEN": broken, "OUT": tmp_path / "runs"}
    argv = [next((w.replace(k, str(v)) for k, v in places.items() if k in w), w) for w in words.split()]
    assert main(argv) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert out == ""


def test_errors_of_ours_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("sfumato.cli.inspect.run", lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "x"])
    monkeypatch.setattr("sfumato.cli.inspect.run", lambda args: (_ for _ in ()).throw(sf.Diverged("too far")))
    assert main(["inspect", "x"]) == 3
    monkeypatch.setattr("sfumato.cli.inspect.run", lambda args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["inspect", "x"]) == 130


def test_sample_writes_pictures_that_inspect_and_like_understand(model, tmp_path, capsys):
    words = ["sample", str(model), "3", "7", "-n", "2", "--seed", "5", "--solver", "ddim", "--out", str(tmp_path / "a")]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    pipe = sf.load(model)
    expected = pipe(["3", "7"], n=2, seed=5, solver=DDIM())
    assert said["seeds"] == [5, 6, 7, 8]
    assert said["model"] == pipe.sha256()
    from PIL import Image

    for path, image in zip(said["paths"], expected.images, strict=True):
        with Image.open(path) as saved:
            assert saved.tobytes() == image.tobytes()
    assert main(["inspect", said["paths"][2], "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["prompt"], facts["seed"], facts["index"]) == ("7", 7, 2)
    assert main(["sample", str(model), "--like", said["paths"][2], "--out", str(tmp_path / "b")]) == 0
    for path in said["paths"]:
        assert (tmp_path / "b" / Path(path).name).read_bytes() == Path(path).read_bytes()
    assert main(words) == 0  # again into the same folder
    assert capsys.readouterr().out.splitlines()[-1].endswith("00004-5.png to 00007-8.png")


def test_inspect_counts(model, capsys):
    assert main(["inspect", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    state = sf.load(model).denoiser.net.state_dict()
    assert facts["parameters"] == sum(v.numel() for v in state.values())
    assert facts["bytes"] == 4 * facts["parameters"]
    assert facts["schedule"]["kind"] == "VPCosine"
    assert main(["inspect", str(model)]) == 0
    assert f"{facts['parameters']:,}" in capsys.readouterr().out


def test_doctor_finds_what_is_wrong(tmp_path, capsys, monkeypatch):
    assert main(["doctor", "--json", "--out", str(tmp_path / "not" / "yet")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["problems"] == []
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("sfumato.cli.doctor.ROOM", 1e9)
    assert main(["doctor", "--out", str(tmp_path)]) == 1
    assert "GiB free" in capsys.readouterr().out


def test_bench_lists_and_reports_the_worst(tmp_path, capfd, monkeypatch):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "harness.py").write_text("")
    for name, code in (("good", 0), ("bad", 1)):
        (folder / f"{name}.py").write_text(
            f'"""P0: {name}."""\n# harness\nimport json, sys\n'
            f'json.dump([{{"ratio": 2}}], open(sys.argv[-1], "w")); sys.exit({code})'
        )
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--list"]) == 0
    assert capfd.readouterr().out.splitlines() == [f"{'bad':<18}P0: bad.", f"{'good':<18}P0: good."]
    assert main(["bench", "good", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == [{"benchmark": "good", "ratio": 2}]
    assert main(["bench"]) == 1
    told = folder / "long.py"
    told.write_text(
        '"""P1."""\n# harness, takes "--full"\nimport json, sys\n'
        'json.dump([{"full": "--full" in sys.argv}], open(sys.argv[-1], "w"))'
    )
    for words, full in (((), False), (("--full",), True)):
        assert main(["bench", "long", "--json", *words]) == 0
        assert json.loads(capfd.readouterr().out.splitlines()[-1]) == [{"benchmark": "long", "full": full}]
    assert main(["bench", "good", "--full"]) == 0  # a script that knows nothing of it is not told


TINY = "train digits --train.batch_size 4 --net.channels 8 --net.groups 2 --net.head_width 8 --train.log_every 5"


def test_train_shows_what_was_overridden_trains_and_goes_on(tmp_path, capsys):
    words = [*TINY.split(), "--train.sample_every", "100", "--out", str(tmp_path), "--quiet"]
    assert main([*words, "--train.steps", "2", "--train.rate", "Constant", "--json"]) == 0
    out, err = capsys.readouterr()
    run = json.loads(out)["run"]
    assert "train.steps: 2000 -> 2" in err
    assert "net.channels: 32 -> 8" in err
    assert main(["train", run, "--train.steps", "4", "--quiet", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(out) | {"run": run, "steps": 4}
    assert main(["train", run, "--train.lr", "1", "--quiet"]) == 2  # it would not be the same run
    assert "started with train.lr" in capsys.readouterr().err
    assert main(["train", run, "--show"]) == 0
    assert "--train.steps 4\n" in capsys.readouterr().out
    assert main(["inspect", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "run"


def test_a_stopped_run_exits_as_the_signal_says_and_goes_on(tmp_path):
    """SIGTERM gives 143, Ctrl-C 130; both save, and the same run is taken up again."""
    code = "import sys\nfrom sfumato.cli import main\nsys.exit(main(sys.argv[1:]))"
    words = [*TINY.split(), "--train.sample_every", "1000000", "--train.steps", "1000000", "--out", str(tmp_path)]
    run, before = None, 1
    for number, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        argv = words if run is None else ["train", str(run)]
        child = subprocess.Popen([sys.executable, "-c", code, *argv], stderr=subprocess.PIPE, text=True)
        begun = time.monotonic()
        while time.monotonic() - begun < 900:
            found = list(tmp_path.glob("digits/*/metrics.jsonl"))
            if found and len(found[0].read_text().splitlines()) > before:
                break
            time.sleep(0.1)
        child.send_signal(number)
        _, err = child.communicate(timeout=900)
        assert child.returncode == expected, err
        assert "Traceback" not in err
        (run,) = tmp_path.glob("digits/*")
        before = len((run / "metrics.jsonl").read_text().splitlines())
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_ctrl_c_elsewhere_is_130_and_a_closed_pipe_is_quiet():
    code = "import sfumato.cli.inspect as i, os, signal, time\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits it ignored
    code += "def run(args):\n os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\ni.run = run\n"
    code += "import sys\nfrom sfumato.cli import main\nsys.exit(main(['inspect', 'x']))"
    done = python(code)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    code = "import sfumato.cli.inspect as i\ndef run(args):\n for _ in range(10**5): print('x' * 100)\ni.run = run\n"
    code += "import sys\nfrom sfumato.cli import main\nsys.exit(main(['inspect', 'x']))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.wait(900) == 1
    assert child.stderr.read() == b""


@pytest.mark.slow
def test_two_processes_share_one_run(tmp_path):
    pytest.importorskip("lightning_fabric")
    words = [*TINY.split(), "--train.steps", "2", "--out", str(tmp_path), "--quiet", "--json"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sfumato"]
    done = subprocess.run([*start, *words], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("digits/*")
    assert json.loads(done.stdout)["run"] == str(run)
    assert sf.load(run)("3", n=1, steps=1).tensor.shape == (1, 1, 8, 8)
