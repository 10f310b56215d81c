"""`sfumato sample` makes what the library's calls make, option by option, and says in one line what cannot be."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato.cli import main
from sfumato.pipeline import enlarged, read_control, read_image_prompt, refined

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))
import tiny_folders
import tiny_text
from interop_parity import scrambled
from test_interop_ip_adapter import _encoder
from test_interop_steered_pictures import ip_file

WORDS = ["a cat", "-n", "1", "--steps", "3", "--seed", "5", "--device", "cpu"]
SHEET = ["--sheet", "guidance=1,2", "--sheet", "solver=ddim,euler"]
CALL = {"prompt": "a cat", "n": 1, "steps": 3, "seed": 5}


def _save(path, side=16, seed=0, mode="RGB"):
    g = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (side, side, 3), generator=g, dtype=torch.uint8).numpy()
    Image.fromarray(values).convert(mode).save(path)
    return path


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    theirs = tiny_folders.sd()
    theirs.save_pretrained(folder / "model")
    shape = {k: v for k, v in tiny_folders.UNET.items() if k not in ("sample_size", "up_block_types")}
    made = tiny_folders.diffusers.ControlNetModel(**shape, conditioning_embedding_out_channels=(8, 16))
    scrambled(made, 1, scale=0.1).save_pretrained(folder / "control")
    _encoder().save_pretrained(folder / "tower")
    ip_file(folder / "ip.safetensors", theirs.unet, tiny_text.WIDTH)
    for name, seed in (("one", 1), ("two", 2)):
        _save(folder / f"{name}.png", seed=seed)
    hole = torch.zeros(16, 16, dtype=torch.uint8)
    hole[:, 8:] = 255
    Image.fromarray(hole.numpy()).save(folder / "hole.png")
    return folder, sf.load(folder / "model")


@pytest.fixture
def run(case, tmp_path, capsys):
    """Run the command on the tiny model and return (what it printed as JSON, its pictures)."""

    def sample(*words, model="model", prompt=WORDS):
        capsys.readouterr()
        argv = ["sample", str(case[0] / model), *prompt, *map(str, words), "--out", str(tmp_path / "out"), "--json"]
        code = main(argv)
        said, err = capsys.readouterr()
        assert code == 0, err
        facts = json.loads(said)
        return facts, [Image.open(path) for path in facts["paths"]]

    return sample


def same(pictures, out):
    expected = out.images
    assert len(pictures) == len(expected)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(pictures, expected, strict=True))
    return True


def test_pictures_to_start_from_and_masks(case, run):
    folder, pipe = case
    told = ["--image", folder / "one.png", "--mask", folder / "hole.png", "--strength", "0.7"]
    facts, pictures = run(*told)
    files = {"image": folder / "one.png", "mask": folder / "hole.png"}
    assert same(pictures, pipe(**CALL, **files, strength=0.7))
    with Image.open(folder / "one.png") as kept:
        assert pictures[0].crop((0, 0, 8, 16)).tobytes() == kept.crop((0, 0, 8, 16)).tobytes()
    again, remade = run("--like", facts["paths"][0], *told[:4], prompt=[])
    assert remade[0].tobytes() == pictures[0].tobytes()
    assert again["request"] == facts["request"]


def test_control_and_image_prompts_from_files(case, run):
    folder, pipe = case
    plain = run()[1][0].tobytes()
    control = f"{folder / 'control'}={folder / 'one.png'}:0.8:0:0.7"
    facts, pictures = run("--control", control)
    by_net = read_control(folder / "control", folder / "one.png", scale=0.8, end=0.7)
    assert same(pictures, pipe(**CALL, control=[by_net]))
    assert pictures[0].tobytes() != plain
    shown = [
        "--image-prompt",
        f"{folder / 'ip.safetensors'}={folder / 'two.png'}:0.6",
        "--image-tower",
        folder / "tower",
    ]
    like = read_image_prompt(
        folder / "ip.safetensors", folder / "two.png", pipe.denoiser.net, folder / "tower", scale=0.6
    )
    _, both = run("--control", control, *shown)
    assert same(both, pipe(**CALL, control=[by_net, like]))
    assert both[0].tobytes() != pictures[0].tobytes()
    _, remade = run("--like", facts["paths"][0], "--control", control, prompt=[])
    assert remade[0].tobytes() == pictures[0].tobytes()


def test_a_refiner_and_a_second_pass(case, run):
    folder, pipe = case
    facts, pictures = run("--refiner", folder / "model", "--refiner-share", "0.4", "--steps", "6")
    call = CALL | {"steps": 6}
    assert same(pictures, refined(pipe, pipe, share=0.4, **call))
    assert facts["request"]["span"] == [0.4, 0.0]
    facts, pictures = run("--enlarge", "2", "--enlarge-strength", "0.5", "--steps", "6")
    (large,) = enlarged(pipe, pipe(**call), scale=2.0, strength=0.5)
    assert pictures[0].size == (32, 32)
    assert same(pictures, large)


def test_a_sheet_over_two_settings(case, run, tmp_path):
    _, pipe = case
    facts, (page,) = run("--sheet", "guidance=1,5.5", "--sheet", "solver=ddim,euler")
    assert Path(facts["paths"][0]).name == "sheet-00000.png"
    call = {k: v for k, v in CALL.items() if k != "n"}
    expected = sf.pipeline.sheet(pipe, ("guidance", [1.0, 5.5]), ("solver", ["ddim", "euler"]), n=1, **call)
    assert page.tobytes() == expected.tobytes()
    facts, _ = run("--sheet", 'prompt=["a, b","c"]', "--sheet", "seed=1,2", prompt=["--steps", "2", "--device", "cpu"])
    assert Path(facts["paths"][0]).name == "sheet-00001.png"


def test_a_preview_is_the_last_look_at_the_run(case, run, tmp_path):
    _, pipe = case
    _, pictures = run("--preview", tmp_path / "look.png")
    looks = []
    out = pipe(**CALL, callback=sf.pipeline.watching(pipe, lambda k, shown: looks.append(shown)))
    assert same(pictures, out)
    assert len(looks) == 3
    from sfumato.pipeline.images import contact_sheet

    with Image.open(tmp_path / "look.png") as look:
        assert look.convert("RGB").tobytes() == contact_sheet(looks[-1]).convert("RGB").tobytes()
    assert not (tmp_path / "look.png.part").exists()


@pytest.mark.parametrize("savers", ["strips,slices", "tiles", "offload"])
def test_memory_savers_make_the_same_pictures(case, run, savers):
    _, pipe = case
    _, pictures = run("--memory", savers)
    ours, expected = (
        torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8).int() for p in (*pictures, *pipe(**CALL).images)
    )
    assert int((ours - expected).abs().max()) <= 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--control", "nowhere"], "must be FILE=PICTURE"),
        (["--control", "nowhere=one.png"], "there is no nowhere"),
        (["--control", "FOLDER/control=FOLDER/one.png:0.5:0.2"], "SCALE:START:END"),
        (["--control", "FOLDER/control=FOLDER/none.png"], "none.png: cannot be read"),
        (["--control", "FOLDER/model/vae=FOLDER/one.png"], "which steers nothing"),
        (["--control", "FOLDER/control=FOLDER/one.png", "--memory", "slices"], "neither of the memory savers"),
        (["--image-prompt", "FOLDER/ip.safetensors=FOLDER/one.png"], "with --image-tower DIR"),
        (["--image-prompt", "no.safetensors=FOLDER/one.png", "--image-tower", "FOLDER/tower"], "no no.safetensors"),
        (["--mask", "FOLDER/hole.png"], "mask needs a picture"),
        (["--strength", "0.5"], "strength needs a picture"),
        (["--image", "FOLDER/none.png"], "none.png: cannot be read"),
        (["--depth", "FOLDER/one.png"], "depth is for networks that paint over a depth map"),
        (["--noise-level", "20"], "noise_level is for networks that enlarge"),
        (["--image-guidance", "2"], "image_guidance is for networks that edit"),
        (["--sheet", "steps=1,2"], "give --sheet twice"),
        ([*SHEET, "--refiner", "nothere"], "a sheet is of single passes: leave --refiner out"),
        ([*SHEET, "--enlarge", "2"], "a sheet is of single passes: leave --enlarge out"),
        ([*SHEET, "--seed", "7", "--sheet", "seed=1,2"], "give --sheet twice"),
        (["--sheet", "seed=1,2", "--sheet", "guidance=1,2"], "--sheet seed=... and --seed: give one of them"),
        (["a dog", *SHEET], "a sheet is of one prompt, got 2"),
        ([*SHEET, "-n", "3"], "-n 3: a sheet shows one picture"),
        (["--sheet", "guidance=1,nan", "--sheet", "solver=ddim"], "the values of guidance are floats"),
        (["--sheet", "noise-level=[1.7,2]", "--sheet", "solver=ddim"], "the values of noise_level are ints"),
        (["--sheet", "noise-level=[true]", "--sheet", "solver=ddim"], "the values of noise_level are ints"),
        (["--sheet", 'negative=["a",null]', "--sheet", "solver=ddim"], "the values of negative are strs"),
        (["--sheet", "guidance=1,2", "--sheet", "solver=ddim,eular"], "did you mean 'euler'"),
        (["--sheet", "guidance=1,2", "--sheet", "grid=karas"], "did you mean 'karras'"),
        (["--sheet", "guidance=1,2", "--sheet", "strength=0.5,2"], "strength=2 must be in (0, 1]"),
        (["--sheet", "stpes=1,2", "--sheet", "seed=1"], "did you mean 'steps'"),
        (["--sheet", "guidance=1,x", "--sheet", "seed=1"], "the values of guidance are floats"),
        (["--sheet", "guidance=1,2", "--sheet", "steps=1", "--guidance", "3"], "give one of them"),
        (["--preview", "look.jpg"], "must be a .png"),
        (["--refiner", "nowhere"], "there is no nowhere"),
        (["--refiner", "FOLDER/model", "--refiner-share", "1.5"], "--refiner-share 1.5 must be in (0, 1)"),
        (["--refiner", "FOLDER/model", "--enlarge", "2"], "leave --refiner out"),
        (["--refiner", "FOLDER/model", "--refiner-share", "0.001"], "of 3 steps leaves the refiner none"),
        (["--refiner", "FOLDER/model", "--refiner-share", "0.9"], "leaves the model before the refiner none"),
        (["--refiner-share", "0.5"], "--refiner-share does nothing without --refiner"),
        (["--enlarge-strength", "0"], "--enlarge-strength does nothing without --enlarge"),
        (["--image-tower", "FOLDER/tower"], "--image-tower does nothing without --image-prompt"),
        (["--lora-partly"], "--lora-partly does nothing without --lora"),
        (["--enlarge", "0.5"], "--enlarge 0.5: a scale of 0.5 enlarges nothing"),
        (["--enlarge", "nan"], "argument --enlarge: 'nan' is not finite"),
        (["--enlarge", "inf"], "argument --enlarge: 'inf' is not finite"),
        (["--enlarge", "1e300"], "at most 8192"),
        (["--enlarge", "1.05"], "16 x 16 pixels, in steps of 2, stay 16 x 16"),
        (["--enlarge", "1000"], "16000 pixels: at most 8192"),
        (["--enlarge", "2", "--enlarge-strength", "0"], "--enlarge-strength 0 must be in (0, 1]"),
        (["--enlarge", "2", "--enlarge-strength", "0.3"], "--enlarge-strength 0.3 of 3 steps leaves none"),
        (["--image-guidance", "nan"], "argument --image-guidance: 'nan' is not finite"),
        (["--control", "FOLDER/control=FOLDER/one.png:inf"], "inf after the picture is not finite"),
        (["--control", "FOLDER/control=FOLDER/one.png:nan"], "nan after the picture is not finite"),
        (["--control", "FOLDER/model=FOLDER/one.png"], "no control network's folder"),
        (["--lora", "FOLDER/lora:nan"], "the strength after the file is not finite"),
        (["--device", "meta"], "--device meta cannot be used here"),
        (["--device", "meta", "--memory", "offload"], "--device meta cannot be used here"),
        (["--size", "100000x100000"], "height=100000 pixels: at most 8192"),
        (["--size", "8192x8192"], "67,108,864 pixels: at most 16,777,216 are made"),
        (["--size", "9" * 5000], "must be HEIGHTxWIDTH"),
        (["--memory", "tile"], "did you mean 'tiles'"),
        (["--size", "15x16"], "height=15 must be a multiple of 2"),
        (["--like", "x.png", "--refiner", "x"], "leave out prompt, n, seed, steps, refiner"),
        (["--codec", "nowhere"], "there is no nowhere"),
        (["--revision", "main"], "is for models of the hub"),
    ],
)
def test_what_cannot_be_is_one_line(case, tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("FOLDER", str(case[0])) for word in words]
    base = [w for w in WORDS if not ("--sheet" in words and w in ("-n", "1"))]
    if "steps=1" in words or "steps=1,2" in words:
        base = ["a cat", "--device", "cpu"]
    argv = ["sample", str(case[0] / "model"), *base, *words, "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert says in lines[0], lines[0]
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_a_model_that_leaves_the_finite_numbers_ends_with_the_modules_name(case, tmp_path, capsys):
    pipe = sf.load(case[0] / "model")
    with torch.no_grad():
        pipe.denoiser.net.middle[0].res.conv2.bias[0] = torch.inf
    pipe.save(tmp_path / "broken")
    assert main(["sample", str(tmp_path / "broken"), *WORDS, "--out", str(tmp_path / "out")]) == 3
    _, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "denoiser.middle.0.res.conv2 gave values that are not finite" in line
    assert not (tmp_path / "out").exists()


def sampling(case, tmp_path, *words, prompt=WORDS, model="model"):
    return main(["sample", str(case[0] / model), *prompt, *map(str, words), "--out", str(tmp_path / "out")])


@pytest.fixture
def unsampled(monkeypatch):
    """Fail where a model is asked for anything."""

    def never(*args, **call):
        pytest.fail("sampled before what was asked was looked at")

    monkeypatch.setattr(sf.Pipeline, "__call__", never)


@pytest.mark.parametrize(
    "words",
    [
        ["--enlarge", "0.5"],
        ["--enlarge", "1.05"],
        ["--enlarge", "2", "--enlarge-strength", "0"],
        ["--enlarge", "2", "--enlarge-strength", "0.3"],
        ["--enlarge", "2", "--refiner", "x"],
        ["--refiner", "FOLDER/model", "--refiner-share", "1"],
        ["--refiner", "FOLDER/model", "--refiner-share", "0.001"],
        ["--refiner", "FOLDER/none"],
        ["--preview", "FOLDER/none/look.png"],
        [*SHEET, "-n", "2"],
    ],
)
def test_what_cannot_follow_a_first_pass_is_said_before_it(case, tmp_path, capsys, unsampled, words):
    assert sampling(case, tmp_path, *(word.replace("FOLDER", str(case[0])) for word in words)) == 2
    assert not (tmp_path / "out").exists()


def test_a_second_pass_that_does_not_end_leaves_the_pictures_of_the_first(case, tmp_path, capsys, monkeypatch):
    _, pipe = case

    def broken(*args, **call):
        raise sf.Diverged("values that are not finite")

    monkeypatch.setattr("sfumato.pipeline.enlarged", broken)
    assert sampling(case, tmp_path, "--enlarge", "2") == 3
    assert "note: the second pass did not end; those of the first begin at" in capsys.readouterr().err
    (kept,) = (tmp_path / "out").iterdir()
    assert same([Image.open(kept)], pipe(**CALL))


@pytest.mark.parametrize("more", [[], SHEET])
def test_a_place_that_cannot_be_written_is_found_before_sampling(case, tmp_path, capsys, unsampled, more):
    (tmp_path / "out").write_text("mine")
    assert sampling(case, tmp_path, *more) == 2
    assert capsys.readouterr().err.endswith("out: File exists; give another folder\n")
    assert (tmp_path / "out").read_text() == "mine"
    assert sampling(case, tmp_path / "out" / "deeper", *more) == 2
    assert capsys.readouterr().err.endswith("deeper/out: Not a directory; give another folder\n")


def test_folders_made_for_pictures_go_again_where_none_were_made(case, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert sampling(case, tmp_path / "there" / "a" / "b", "--mask", case[0] / "hole.png") == 2
    assert (tmp_path / "there").is_dir()
    assert not list((tmp_path / "there").iterdir())
    assert sampling(case, tmp_path / "there" / "a" / "b") == 0
    assert len(list((tmp_path / "there" / "a" / "b" / "out").iterdir())) == 1


def test_a_sheet_says_what_was_not_read_of_a_prompt(case, tmp_path, capsys):
    assert sampling(case, tmp_path, *SHEET, prompt=["(a cat:1.3)", "--steps", "2", "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert said == "note: '(a cat:1.3)' is read as text: give syntax=Weighted(), or --weighted, to read weights\n"


def test_a_preview_replaces_a_preview_and_nothing_else(case, tmp_path, capsys, monkeypatch):
    mine, look = _save(tmp_path / "mine.png"), tmp_path / "look.png"
    before = mine.read_bytes()
    for words in (["--image", mine, "--preview", mine], ["--preview", mine]):
        assert sampling(case, tmp_path, *words) == 2
        assert mine.read_bytes() == before
    assert "is there and no preview: nothing is overwritten" in capsys.readouterr().err
    (tmp_path / "look.png.part").write_text("mine")
    assert sampling(case, tmp_path, "--preview", look) == 0
    first = look.read_bytes()
    assert sampling(case, tmp_path, "--preview", look, "--steps", "2") == 0
    assert look.read_bytes() != first
    assert (tmp_path / "look.png.part").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["look.png", "look.png.part", "mine.png", "out"]
    first = look.read_bytes()
    assert sampling(case, tmp_path, "--preview", look, "--image", look) == 2
    assert "is a picture that this call reads" in capsys.readouterr().err
    control = f"{case[0] / 'control'}={look}:0.5"
    assert sampling(case, tmp_path, "--preview", look, "--control", control) == 2
    assert look.read_bytes() == first


def test_a_preview_that_fails_in_mid_run_does_not_end_the_run(case, tmp_path, capsys, monkeypatch):
    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sfumato.cli.previews.os.replace", full)
    assert sampling(case, tmp_path, "--preview", tmp_path / "look.png") == 0
    assert (
        capsys.readouterr().err
        == f"note: --preview {tmp_path / 'look.png'} cannot be written: No space left on device\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_weights_in_prompts_are_read_where_they_are_asked_for(case, run):
    _, pipe = case
    words = ["(a cat:1.7)", *WORDS[1:]]
    _, plain = run(prompt=words)
    facts, pictures = run("--weighted", prompt=words)
    weighted = replace(pipe, conditioner=replace(pipe.conditioner, syntax=sf.conditioning.Weighted()))
    assert same(pictures, weighted(**CALL | {"prompt": "(a cat:1.7)"}))
    assert pictures[0].tobytes() != plain[0].tobytes()
    assert facts["model"] == weighted.sha256() != pipe.sha256()
    _, remade = run("--weighted", "--like", facts["paths"][0], prompt=[])
    assert remade[0].tobytes() == pictures[0].tobytes()


def test_pictures_of_two_passes_say_how_to_make_them_again(case, run, tmp_path, capsys):
    refined, _ = run("--refiner", case[0] / "model", "--refiner-share", "0.4", "--steps", "6")
    large, _ = run("--enlarge", "2", "--enlarge-strength", "0.5", "--steps", "6")
    for facts, says in ((refined, "was made in two passes (--refiner)"), (large, "the first pass of --enlarge")):
        assert sampling(case, tmp_path, "--like", facts["paths"][0], prompt=[]) == 2
        said = capsys.readouterr().err
        assert says in said
        assert "run the command that made it again" in said
        assert said.count("\n") == 1
    for words, name in ((["--seed", "1"], "seed"), (["--compile"], "compile")):
        assert sampling(case, tmp_path, "--like", large["paths"][0], *words, prompt=[]) == 2
        assert f"leave out {name}" in capsys.readouterr().err


def test_a_size_beyond_what_is_read_is_not_begun(case):
    _, pipe = case
    with pytest.raises(sf.InputError, match="width=8194 pixels: at most 8192"):
        pipe(**CALL, size=(16, 8194))


def test_a_picture_is_no_model(case, tmp_path, capsys):
    assert main(["sample", str(case[0] / "one.png"), "a cat", "--out", str(tmp_path / "out")]) == 2
    assert "one.png is no file of weights: give a model's folder" in capsys.readouterr().err
