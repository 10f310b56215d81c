"""Pictures of every mode come out with the exact pixels; hostile ones are refused, quickly and with a reason."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

import sfumato as sf
from sfumato.data.images import decode, grey_levels, load, read_bytes, upright

RGB = np.array([[[255, 0, 0], [0, 255, 0], [10, 20, 30]], [[0, 0, 255], [1, 2, 3], [200, 100, 50]]], dtype=np.uint8)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content):
    image = decode(content)
    assert image.mode == "RGB"
    return np.asarray(image)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth=8, colour=0, data=b"", extra=b""):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_rgb_is_kept_to_the_bit():
    assert np.array_equal(pixels(encode(Image.fromarray(RGB))), RGB)
    assert np.array_equal(pixels(encode(Image.fromarray(RGB), "WEBP", lossless=True)), RGB)


def test_grey_black_and_white_and_palette():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    assert np.array_equal(pixels(encode(Image.fromarray(grey))), grey[..., None].repeat(3, 2))
    bits = Image.fromarray(grey).point(lambda v: 255 * (v > 100), "1")
    assert np.array_equal(pixels(encode(bits)), np.where(grey > 100, 255, 0)[..., None].repeat(3, 2))
    palette = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    assert np.array_equal(pixels(encode(palette)), RGB)


def test_sixteen_bits_keep_their_high_byte():
    levels = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    high = np.array([[0, 0, 1, 128, 255]])[..., None].repeat(3, 2)
    assert np.array_equal(pixels(encode(Image.fromarray(levels))), high)
    rows = b"\0" + np.stack([levels] * 3, 2).astype(">u2").tobytes()
    assert np.array_equal(pixels(png(5, 1, 16, 2, rows)), high)
    clear = png(5, 1, 16, 0, b"\0" + levels.astype(">u2").tobytes(), chunk(b"tRNS", struct.pack(">H", 256)))
    assert pixels(clear)[0, :, 0].tolist() == [0, 0, 255, 128, 255]


def test_transparency_is_composed_over_white():
    rgba = np.dstack([RGB, np.array([[255, 0, 128], [0, 51, 255]], dtype=np.uint8)])
    a = rgba[..., 3:].astype(float) / 255
    exact = np.floor(a * RGB + (1 - a) * 255 + 0.5)
    assert np.abs(pixels(encode(Image.fromarray(rgba))) - exact).max() <= 1
    assert np.array_equal(pixels(encode(Image.fromarray(rgba)))[0, :2], [[255, 0, 0], [255, 255, 255]])
    grey_alpha = Image.merge("LA", (Image.new("L", (1, 1), 10), Image.new("L", (1, 1), 0)))
    assert pixels(encode(grey_alpha)).tolist() == [[[255, 255, 255]]]
    palette = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    index = palette.getpixel((0, 0))
    assert np.array_equal(pixels(encode(palette, transparency=index))[0], [[255, 255, 255], *RGB[0, 1:]])


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [  # EXIF 2.32, tag 0x0112: the sides of the scene that the stored first row and first column are
        (1, RGB),  # top, left
        (2, RGB[:, ::-1]),  # top, right
        (3, RGB[::-1, ::-1]),  # bottom, right
        (4, RGB[::-1]),  # bottom, left
        (5, RGB.swapaxes(0, 1)),  # left, top
        (6, RGB.swapaxes(0, 1)[::-1]),  # right, top
        (7, RGB.swapaxes(0, 1)[::-1, ::-1]),  # right, bottom
        (8, RGB.swapaxes(0, 1)[:, ::-1]),  # left, bottom
    ],
)
def test_pictures_stand_upright(orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)), RGB)


def test_a_cmyk_jpeg_and_a_multi_picture_jpeg_are_read():
    cmyk = Image.merge("CMYK", [Image.new("L", (8, 8), v) for v in (0, 255, 255, 0)])
    assert np.abs(pixels(encode(cmyk, "JPEG", quality=100)).astype(int) - [255, 0, 0]).max() <= 2
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    first = pixels(encode(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=100))
    assert np.abs(first.astype(int) - [255, 0, 0]).max() <= 2


def sideways():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


LEVELS = np.array([[0, 255, 256], [32768, 65535, 1000]], dtype=np.uint16)
STORED = {  # what a kind of picture is made of, and how it is written
    "I;16": (Image.fromarray(LEVELS), "PNG", {}),
    "I;16 with a hole": (Image.fromarray(LEVELS), "PNG", {"transparency": 256}),
    "I;16 on its side": (Image.fromarray(LEVELS), "PNG", {"exif": sideways()}),
    "L": (Image.fromarray(RGB[..., 0]), "PNG", {}),
    "1": (Image.fromarray(RGB[..., 0] > 100), "PNG", {}),
    "LA": (Image.fromarray(RGB[..., 0:2], "LA"), "PNG", {}),
    "RGBA": (Image.fromarray(np.dstack([RGB, RGB[..., 1]])), "PNG", {}),
    "P with a hole": (Image.fromarray(RGB).quantize(16), "PNG", {"transparency": 2}),
    "CMYK": (Image.fromarray(RGB).convert("CMYK"), "JPEG", {"quality": 100}),
    "RGB on its side": (Image.fromarray(RGB), "JPEG", {"quality": 100, "exif": sideways()}),
}


@pytest.mark.parametrize("kind", STORED)
def test_a_picture_that_is_open_is_read_as_its_file_is(kind):
    image, form, options = STORED[kind]
    content = encode(image, form, **options)
    once = decode(content)
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.mode == kind.split()[0]
        assert np.array_equal(np.asarray(upright(opened)), np.asarray(once))
        assert np.array_equal(grey_levels(opened), grey_levels(load(content)))
    assert once.size == ((2, 3) if "side" in kind else (3, 2))
    assert np.array_equal(np.asarray(upright(once)), np.asarray(once))  # what stands upright is not turned once more


def test_a_picture_in_memory_is_read_as_one_in_a_file():
    """Of 16 bits the high byte, whichever of PIL's modes holds them; transparency over white."""
    high = LEVELS >> 8
    for image in (Image.fromarray(LEVELS), Image.fromarray(LEVELS.astype(np.int32))):
        assert np.array_equal(np.asarray(upright(image)), high[..., None].repeat(3, 2))
        assert np.array_equal(grey_levels(image), LEVELS)
    beyond = Image.fromarray(np.array([[-5, 70000]], dtype=np.int32))
    assert np.asarray(upright(beyond))[0, :, 0].tolist() == [0, 255]
    clear = Image.fromarray(np.dstack([RGB, np.zeros_like(RGB[..., 0])]))
    assert np.asarray(upright(clear)).min() == 255
    assert grey_levels(clear).min() == 255
    with pytest.raises(sf.InputError, match="does not decode") as caught:
        upright(Image.new("La", (2, 2)))
    assert "\n" not in str(caught.value)


def test_grey_levels_stand_upright_and_keep_their_depth():
    turned = Image.fromarray(np.ascontiguousarray(LEVELS.swapaxes(0, 1)[::-1]))  # orientation 6, as above
    assert np.array_equal(grey_levels(load(encode(turned, exif=sideways()))), LEVELS)
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    assert np.array_equal(grey_levels(load(encode(Image.fromarray(grey)))), grey)


def bomb_scans():
    """A progressive JPEG whose last scan is repeated 500 times: 500 passes over 16 million pixels."""
    content = encode(Image.new("RGB", (4096, 4096)), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 500 + b"\xff\xd9"


def frames(kind):
    pictures = [Image.new("RGB", (8, 8), c) for c in ("red", "blue", "green")]
    return encode(pictures[0], kind, save_all=True, append_images=pictures[1:])


def hostile():
    good = encode(Image.fromarray(RGB))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    jpeg, webp = encode(noise, "JPEG"), encode(noise, "WEBP")
    return {
        "pixels": (png(13000, 13000), "13000 x 13000 pixels"),
        "pixels within the sides": (png(8192, 8192), "8192 x 8192 pixels"),
        "long": (png(1_000_000, 1), "1000000 x 1 pixels"),
        "more than 2^31 pixels": (png(2_000_000_000, 2_000_000_000), "does not decode"),
        "webp of 268 million pixels": (
            b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xfe\x3f\0" * 2,
            "WebP|does not decode|pixels",
        ),
        "text": (png(1, 1, data=b"\0\0", extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 10**8))), "decode"),
        "profile": (png(1, 1, data=b"\0\0", extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(b"a" * 10**8))), "decode"),
        "scans": (bomb_scans(), "more than 64 scans"),
        "animated png": (frames("PNG"), "an animation"),
        "animated webp": (frames("WEBP"), "an animation"),
        "gif": (frames("GIF"), "not a PNG, JPEG or WebP"),
        "tiff": (encode(noise, "TIFF"), "not a PNG, JPEG or WebP"),
        "bmp": (encode(noise, "BMP"), "not a PNG, JPEG or WebP"),
        "eps": (encode(noise, "EPS"), "not a PNG, JPEG or WebP"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a PNG, JPEG or WebP"),
        "pdf first": (b"%PDF-1.7\n" + good, "not a PNG, JPEG or WebP"),
        "zip last": (good + b"PK\x05\x06" + b"\0" * 18, "does not end where"),
        "html last": (webp + b"<script>", "does not end where"),
        "half a png": (good[: len(good) // 2], "does not end where"),
        "half a jpeg": (jpeg[: len(jpeg) // 2], "does not decode"),
        "half a webp": (webp[: len(webp) // 2], "does not end where"),
        "torn png": (png(100, 100, data=b"\0" * 50), "does not decode"),
        "flipped bit": (good[:45] + bytes([good[45] ^ 1]) + good[46:], "does not decode"),
        "header alone": (b"\xff\xd8\xff", "does not decode"),
        "nothing known": (b"\0" * 100, "not a PNG, JPEG or WebP"),
    }


HOSTILE = hostile()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_pictures_are_refused(name):
    content, reason = HOSTILE[name]
    with pytest.raises(sf.InputError, match=reason) as caught:
        decode(content)
    assert "\n" not in str(caught.value)


def test_hostile_pictures_take_no_memory(tmp_path):
    for name in ("pixels", "pixels within the sides", "webp of 268 million pixels", "text", "profile"):
        (tmp_path / name).write_bytes(HOSTILE[name][0])
    code = """
import pathlib, resource, sys
import sfumato as sf
from sfumato.data.images import decode
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        decode(path.read_bytes())
    except sf.InputError:
        continue
    raise SystemExit(f"{path.name} was read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) < 50


def test_the_largest_picture_is_read():
    assert decode(encode(Image.new("1", (8192, 2048)))).size == (8192, 2048)
    with pytest.raises(sf.InputError, match="8193 x 1 pixels"):
        decode(encode(Image.new("1", (8193, 1))))


def test_only_plain_files_of_the_folder_are_opened(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "real.png").write_bytes(b"real")
    (root / "inside.png").symlink_to("real.png")
    (root / "outside.png").symlink_to(tmp_path / "secret.png")
    (root / "circle.png").symlink_to("circle.png")
    (root / "empty.png").touch()
    os.mkfifo(root / "pipe.png")
    with open(root / "big.png", "wb") as file:
        file.truncate(20_000_001)
    assert read_bytes(root, "inside.png") == b"real"
    for name, reason in {
        "outside.png": "leaves the folder",
        "../secret.png": "leaves the folder",
        str(tmp_path / "secret.png"): "leaves the folder",
        "pipe.png": "not a plain file",
        ".": "not a plain file",
        "empty.png": "0 bytes",
        "big.png": "20000001 bytes",
        "none.png": "No such file",
        "circle.png": "cannot be read",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(sf.InputError, match=reason):
            read_bytes(root, name)
