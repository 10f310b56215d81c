"""A PNG says what made it, and the same picture can be made again from that."""

import dataclasses
import json
import struct
import zlib
from xml.etree import ElementTree

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pipeline_toys import make

import sfumato as sf
from sfumato.pipeline import Settings, read_settings
from sfumato.pipeline.metadata import CHUNK, encode_png, parameters, parse_parameters, read_text
from sfumato.solvers.churn import Churn


@pytest.mark.parametrize(
    "call",
    [
        {"prompt": ["dog", "cat"], "n": 2, "seed": 9},
        {"prompt": None, "n": 3, "solver": "ddpm"},
        {"prompt": "7", "solver": sf.solvers.DDIM(eta=0.3), "grid": [1.0, 0.6, 0.1, 0.0]},
        {"prompt": "dog", "solver": sf.solvers.Heun(churn=Churn(amount=3.0)), "guidance_interval": (0.1, float("inf"))},
        {"prompt": "dog", "guidance": 3.5, "guidance_interval": (0.2, 4), "rescale": 0.5, "steps": 4},
    ],
)
def test_settings_make_the_same_bytes_again(pipe, tmp_path, call):
    paths = pipe(**call).save(tmp_path)
    for path in (paths[0], paths[-1]):
        settings = read_settings(path)
        again = make().again(settings)  # another object with the same weights
        assert encode_png(again.images[settings.index], again.settings(settings.index)) == path.read_bytes()


def test_another_model_is_refused(pipe, tmp_path):
    settings = read_settings(pipe(n=1).save(tmp_path)[0])
    with pytest.raises(sf.InputError, match="load the model that made the picture"):
        make(seed=1).again(settings)


def test_the_text_is_what_the_web_uis_write(pipe, tmp_path):
    out = pipe("dog", n=2, seed=41, steps=5, grid="log_snr", guidance=4.0)
    text = read_text(out.save(tmp_path)[1])["parameters"]
    assert text == (
        "dog\nSteps: 5, Sampler: DEIS, Schedule type: Log Snr, CFG scale: 4, Seed: 42, Size: 4x4, "
        f"Model hash: {pipe.sha256()[:10]}, Version: sfumato {sf.__version__}"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a cat, sitting\non a mat\nNegative prompt: blurry, low\nSteps: 20, Sampler: Euler a, Schedule type: "
            "Automatic, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: 6ce0161689, Version: v1.9.4",
            {"Prompt": "a cat, sitting\non a mat", "Negative prompt": "blurry, low", "Sampler": "Euler a"},
        ),
        (
            'x\nSteps: 3, Seed: 1, Size: 8x8, Lora hashes: "a: 12, b: 34", Note: "say \\"hi\\""',
            {"Prompt": "x", "Steps": "3", "Lora hashes": "a: 12, b: 34", "Note": 'say "hi"'},
        ),
        ("only: a prompt, with: colons", {"Prompt": "only: a prompt, with: colons"}),
        ("", {"Prompt": ""}),
    ],
)  # fmt: skip
def test_the_text_of_other_programs_is_read(text, expected):
    found = parse_parameters(text)
    assert {k: found.get(k) for k in expected} == expected
    assert ("Steps" in found) == ("Steps:" in text)


@pytest.mark.parametrize("prompt", ['a "quoted", name', "ünïcødé 猫", "", "two\nlines"])
def test_written_text_reads_back(prompt):
    request = {"steps": 3, "solver": {"kind": "My, Own"}, "grid": "karras", "guidance": 1.0}
    settings = Settings(
        request=request, index=0, seed=5, prompt=prompt, model="ab" * 32, versions={"sfumato": "1"}, device="cpu"
    )
    found = parse_parameters(parameters(settings, (8, 9)))
    assert (found["Prompt"], found["Seed"], found["Sampler"], found["Size"]) == (prompt.strip(), "5", "My, Own", "8x9")


def test_the_mark_of_generated_media_is_always_there(pipe, tmp_path):
    shown, hidden = (pipe("dog", n=1).save(tmp_path, private=private)[0] for private in (False, True))
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    iptc = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    source = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    for path in (shown, hidden):
        with Image.open(path) as image:
            packet = image.info["XML:com.adobe.xmp"]
        (description,) = ElementTree.fromstring(packet).iter(f"{{{rdf}}}Description")
        assert description.attrib[f"{{{iptc}}}DigitalSourceType"] == source
    assert set(read_text(hidden)) == {"XML:com.adobe.xmp"}
    with pytest.raises(sf.InputError, match="carries no sfumato settings"):
        read_settings(hidden)


def _png(path, chunk=None, size=(2, 2)):
    info = PngInfo()
    if chunk is not None:
        info.add_text(CHUNK, chunk if isinstance(chunk, str) else json.dumps(chunk))
    Image.new("L", size).save(path, pnginfo=info)
    return path


GOOD = dataclasses.asdict(Settings(request={}, index=0, seed=1, prompt=None, model="x", versions={}, device="cpu"))


@pytest.mark.parametrize(
    "chunk",
    [
        "{",
        "[]",
        "null",
        "[" * 100_000,
        {k: v for k, v in GOOD.items() if k != "seed"},
        GOOD | {"extra": 1},
        GOOD | {"format": 2},
        GOOD | {"seed": "1"},
        GOOD | {"seed": True},
        GOOD | {"request": []},
    ],
)
def test_damaged_settings_are_refused_in_a_line(tmp_path, chunk):
    with pytest.raises(sf.InputError) as caught:
        read_settings(_png(tmp_path / "a.png", chunk))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"n": "2"},
        {"n": True},
        {"n": 0},
        {"prompt": "dog"},
        {"prompt": [["dog"]]},
        {"solver": {"kind": "Plain"}},
        {"solver": {"kind": "os.system"}},
        {"solver": "heun"},
        {"grid": [[1.0], [0.0]]},
        {"grid": ["1", "0"]},
        {"guidance": None},
        {"callback": 1},
        {"steps": 99, "grid": [1.0, 0.0]},
    ],
)
def test_a_request_that_no_call_wrote_is_refused(pipe, tmp_path, change):
    settings = read_settings(pipe("dog", n=1).save(tmp_path)[0])
    with pytest.raises(sf.InputError) as caught:
        pipe.again(dataclasses.replace(settings, request=settings.request | change))
    assert "\n" not in str(caught.value)


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_hostile_pictures_are_refused_before_decoding(tmp_path):
    def png(name, width, height, *chunks):
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b""))

    png("huge.png", 13_000, 13_000, _chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000)))
    png("long.png", 1_000_000, 1, _chunk(b"IDAT", b""))
    png("bomb.png", 2, 2, _chunk(b"zTXt", b"sfumato\0\0" + zlib.compress(b"x" * 50_000_000)), _chunk(b"IDAT", b""))
    texts = [_chunk(b"tEXt", f"k{i}\0".encode() + b"x" * 900_000) for i in range(4)]
    png("texts.png", 2, 2, *texts, _chunk(b"IDAT", b""))
    Image.new("RGB", (4, 4)).save(tmp_path / "jpeg.png", "JPEG")
    (tmp_path / "postscript.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(_png(tmp_path / "whole.png", "{}").read_bytes()[:20])
    (tmp_path / "folder.png").mkdir()
    for path in sorted(tmp_path.glob("*.png")):
        if path.name == "whole.png":
            continue
        with pytest.raises(sf.InputError) as caught:
            read_settings(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(sf.InputError):
        read_settings(tmp_path / "absent.png")
