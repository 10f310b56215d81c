"""`sfumato sample` makes what the library's calls make, option by option, and says in one line what cannot be."""

import json
import sys
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
        (["--sheet", "stpes=1,2", "--sheet", "seed=1"], "did you mean 'steps'"),
        (["--sheet", "guidance=1,x", "--sheet", "seed=1"], "the values of guidance are floats"),
        (["--sheet", "guidance=1,2", "--sheet", "steps=1", "--guidance", "3"], "give one of them"),
        (["--preview", "look.jpg"], "must be a .png"),
        (["--refiner", "nowhere"], "there is no nowhere"),
        (["--refiner", "FOLDER/model", "--refiner-share", "1.5"], "share=1.5 must be in (0, 1)"),
        (["--refiner", "FOLDER/model", "--enlarge", "2"], "leave --refiner out"),
        (["--enlarge", "0.5"], "enlarges nothing"),
        (["--memory", "tile"], "did you mean 'tiles'"),
        (["--size", "15x16"], "height=15 must be a multiple of 2"),
        (["--like", "x.png", "--refiner", "x"], "leave out prompt, n, steps, refiner"),
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
