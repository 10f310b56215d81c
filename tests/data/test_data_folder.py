"""A folder's pictures arrive with the exact pixels, conditions and crops, and every skipped file is named."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato import data

SEED = sf.Noise([0])


def picture(seed, width=12, height=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def scaled(pixels):
    return torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - 1)


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(["cat/b.png", "cat/a.webp", "ant/deep/c.png", "bee/d.png"]):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(k, 8, 8)).save(file, lossless=True)
    return tmp_path


def test_pictures_of_the_right_size_are_kept_to_the_bit(folder):
    ds = data.ImageFolder(path=str(folder), size=8)
    assert ds.names == ("ant/deep/c.png", "bee/d.png", "cat/a.webp", "cat/b.png")
    x0, cond = ds.batch([3, 0], sf.Noise([1, 2]))
    assert torch.equal(x0, torch.stack([scaled(picture(0, 8, 8)), scaled(picture(2, 8, 8))]))
    assert cond == {}
    assert x0.dtype == torch.float32
    assert (ds.shape, len(ds), ds.classes) == ((3, 8, 8), 4, None)


def test_the_range_is_minus_one_to_one(tmp_path):
    save(tmp_path / "a.png", np.array([[[0, 255, 51]]], dtype=np.uint8))
    x0 = data.ImageFolder(path=str(tmp_path), size=1).batch([0], SEED).x0.flatten()
    assert x0[:2].tolist() == [-1, 1]
    assert x0[2].item() == pytest.approx(-0.6, abs=1e-7)
    save(tmp_path / "b.png", np.array([[[10, 200, 77]]], dtype=np.uint8))
    grey = data.ImageFolder(path=str(tmp_path), size=1, channels=1).batch([1], SEED).x0
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B = 129.2, rounded to a level
    assert grey.item() == pytest.approx(129 / 127.5 - 1, abs=1e-6)


def test_the_centre_crop_is_the_middle(tmp_path):
    save(tmp_path / "wide.png", picture(0, 12, 8))
    save(tmp_path / "tall.png", picture(1, 8, 14))
    x0 = data.ImageFolder(path=str(tmp_path), size=8).batch([1, 0], sf.Noise([1, 2])).x0
    assert torch.equal(x0[0], scaled(picture(0, 12, 8)[:, 2:10]))
    assert torch.equal(x0[1], scaled(picture(1, 8, 14)[3:11]))


@pytest.mark.parametrize("resample", ["bicubic", "lanczos", "bilinear", "box"])
def test_the_filter_is_the_named_one_and_antialiased(tmp_path, resample):
    pixels = picture(0, 32, 32)
    save(tmp_path / "a.png", pixels)
    ds = data.ImageFolder(path=str(tmp_path), size=8, resample=resample)
    exact = np.stack([_resize(pixels[..., c].astype(float), 8, _KERNELS[resample]) for c in range(3)], 2)
    got = (ds.batch([0], SEED).x0[0].permute(1, 2, 0).double().numpy() + 1) * 127.5
    assert np.abs(got - exact.clip(0, 255)).max() < 1.01  # Pillow rounds after each of the two passes


def _sinc(x, a):
    return np.where(np.abs(x) < a, np.sinc(x) * np.sinc(x / a), 0)


def _cubic(x):
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2  # Keys, a = -1/2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_KERNELS = {
    "bicubic": _cubic,
    "lanczos": lambda x: _sinc(x, 3),
    "bilinear": lambda x: np.maximum(1 - np.abs(x), 0),
    "box": lambda x: ((x > -0.5) & (x <= 0.5)).astype(float),
}


def _resize(image, size, kernel):
    """Both axes with the kernel stretched by the factor of reduction, weights normalised at the edges."""
    n = len(image)
    centres = (np.arange(size) + 0.5) * n / size
    weights = kernel((np.arange(n) + 0.5 - centres[:, None]) * size / n)
    weights /= weights.sum(1, keepdims=True)
    return weights @ image @ weights.T


def test_random_crops_and_flips_follow_the_row_alone(tmp_path):
    # red tells the column and green the row, so that the window can be read back from the pixels
    y, x = np.mgrid[:100, :140]
    save(tmp_path / "a.png", np.stack([x, y, 0 * x], 2).astype(np.uint8))
    ds = data.ImageFolder(path=str(tmp_path), size=50, crop=data.RandomCrop(min_fraction=0.5), flip=0.25)
    seeds = list(range(400))
    x0 = ds.batch([0] * 400, sf.Noise(seeds)).x0
    assert torch.equal(ds.batch([0] * 3, sf.Noise([7, 300, 7])).x0, x0[[7, 300, 7]])
    levels = (x0.double() + 1) * 127.5
    left, right, top = levels[:, 0, :, 0].mean(1), levels[:, 0, :, -1].mean(1), levels[:, 1, 0].mean(1)
    flipped = left > right
    assert flipped.double().mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)
    side = (right - left).abs() * 50 / 49  # the outer pixels' centres lie half a pixel inside
    assert side.min() > 48
    assert side.max() < 101.5
    zoom = 100 / side
    assert zoom.mean() == pytest.approx(1.5, abs=4 * (1 / 12 / 400) ** 0.5 + 0.02)
    start = torch.minimum(left, right) - side / 100
    share = start / (140 - side)
    assert share.mean() == pytest.approx(0.5, abs=4 * (1 / 12 / 400) ** 0.5 + 0.02)
    assert share.min() > -0.03
    assert share.max() < 1.03
    high = (zoom > 1.2).nonzero().flatten()
    down = ((top - side / 100) / (100 - side))[high]
    assert down.mean() == pytest.approx(0.5, abs=0.08)
    # zoom, place and mirroring are independent: each correlation lies within 4 standard deviations of none
    together = torch.corrcoef(torch.stack([zoom[high], share[high], down, flipped.double()[high]]))
    assert (together - torch.eye(4)).abs().max() < 4 / len(high) ** 0.5
    still = dataclasses.replace(ds, crop=data.CenterCrop(), flip=1.0).batch([0], SEED).x0
    assert torch.equal(still.flip(3), dataclasses.replace(ds, crop=data.CenterCrop(), flip=0.0).batch([0], SEED).x0)


def test_class_sub_folders_number_the_classes(folder):
    save(folder / "loose.png", picture(9))
    ds = data.ImageFolder(path=str(folder), size=8, labels=data.SubFolders())
    assert ds.classes == ("ant", "bee", "cat")
    batch = ds.batch([0, 1, 2, 3, 0], sf.Noise(range(5)))
    assert batch.cond["y"].tolist() == [0, 1, 2, 2, 0]
    assert batch.cond["y"].dtype == torch.int64
    assert ds.report.skipped == (("loose.png", "in no class sub-folder"),)
    # a class whose pictures are all broken keeps its number
    (folder / "ant/deep/c.png").write_bytes(b"broken")
    ds = data.ImageFolder(path=str(folder), size=8, labels=data.SubFolders())
    assert ds.classes == ("ant", "bee", "cat")
    assert ds.batch([0], SEED).cond["y"].tolist() == [1]


CAPTIONS = {
    "captions.csv": (
        'file_name,caption\ncat/b.png,"a cat, ""b"""\nbee/d.png,eine Biene: ü\nno.png,nothing\ncat/a.webp,\n'
    ),
    "captions.txt": 'cat/b.png\ta cat, "b"\r\nbee/d.png\teine Biene: ü\n\nno.png\tnothing\ncat/a.webp\t \n',
    "metadata.jsonl": (
        '{"file_name": "cat/b.png", "text": "a cat, \\"b\\""}\n{"file_name": "bee/d.png", "caption": "eine Biene: ü"}\n'
        '{"file_name": "no.png", "text": "nothing", "more": 1}\n{"file_name": "cat/a.webp", "text": ""}\n'
    ),
}


@pytest.mark.parametrize("file", CAPTIONS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_captions_arrive_word_for_word(folder, file, mark):
    (folder / file).write_text(mark + CAPTIONS[file], encoding="utf-8", newline="")
    ds = data.ImageFolder(path=str(folder), size=8, labels=data.Captions(file=file))
    assert ds.names == ("bee/d.png", "cat/b.png")
    batch = ds.batch([1, 0], sf.Noise([0, 1]))
    assert data.text(batch.cond["caption"]) == ['a cat, "b"', "eine Biene: ü"]
    assert batch.cond["caption"].dtype == torch.uint8
    assert bytes(batch.cond["caption"][0].tolist()) == b'a cat, "b"'.ljust(len("eine Biene: ü".encode()), b"\0")
    assert dict(ds.report.skipped) == {
        "ant/deep/c.png": "has no caption",
        "cat/a.webp": "has no caption",
        "no.png": "has a caption, but there is no such file in the folder",
    }
    assert (ds.report.found, ds.report.used) == (4, 2)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("captions.csv", b"name,caption\na.png,b\n", "line 2 needs file_name and caption"),
        ("captions.csv", b'file_name,caption\na.png,"b\n', "unexpected end of data"),
        ("captions.csv", b"file_name,caption\na.png\n", "line 2 needs file_name and caption"),
        ("captions.csv", b"file_name,caption\na.png,x\na.png,y\n", "names 'a.png' twice"),
        ("captions.csv", b"file_name,caption\na.png,\xff\n", "not UTF-8"),
        ("captions.txt", b"a.png a cat\n", "line 1 has no tab"),
        ("captions.jsonl", b"{\n", "line 1 is not JSON"),
        ("captions.jsonl", b"[" * 100000, "line 1 is not JSON"),
        ("captions.jsonl", b'["a.png", "x"]\n', "line 1 needs file_name and caption"),
        ("captions.jsonl", b'{"file_name": "a.png", "text": 3}\n', "line 1 needs file_name and caption"),
        ("captions.yaml", b"a: b\n", "unknown ending; known: .csv, .jsonl, .txt"),
        ("../captions.csv", b"file_name,caption\na.png,b\n", "leaves the folder"),
        ("captions.csv", None, "No such file"),
    ],
)
def test_captions_files_that_do_not_read_are_refused(tmp_path, file, content, reason):
    root = tmp_path / "root"
    save(root / "a.png", picture(0))
    if content is not None:
        (root / file).write_bytes(content)
    with pytest.raises(sf.InputError, match=reason) as caught:
        len(data.ImageFolder(path=str(root), size=8, labels=data.Captions(file=file)))
    assert "\n" not in str(caught.value)


def test_every_skipped_file_is_named_with_its_reason(folder):
    png = io.BytesIO()
    Image.fromarray(picture(0)).save(png, "PNG")
    outside = folder.parent / f"{folder.name}-outside"
    save(outside / "x.png", picture(1))
    (folder / "link.png").symlink_to(outside / "x.png")
    (folder / "linked").symlink_to(outside)
    (folder / "inner.png").symlink_to("cat/b.png")
    (folder / "empty.png").touch()
    (folder / "half.png").write_bytes(png.getvalue()[:-20])
    (folder / "notes.txt").write_text("notes")
    Image.new("1", (13000, 13000)).save(folder / "bomb.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(b"")
    (folder / "a\nb.png").write_bytes(b"")
    ds = data.ImageFolder(path=str(folder), size=8)
    skipped = dict(ds.report.skipped)
    assert {name: reason[:20] for name, reason in skipped.items()} == {
        "a\nb.png": "0 bytes; 1 to 200000",
        "bomb.png": "13000 x 13000 pixels",
        "empty.png": "0 bytes; 1 to 200000",
        "half.png": "a PNG that does not ",
        "link.png": "a link that leaves t",
        "linked": "a link to a folder",
        "notes.txt": "not a PNG, JPEG or W",
    }
    assert (ds.report.found, ds.report.used) == (12, 5)
    assert str(ds.report).startswith("12 files found, 5 used, 7 skipped; 2 x 0 bytes")
    assert "\n" not in str(ds.report)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(sf.InputError, match=r"no usable picture in .*1 files found, 0 used, 1 skipped; 1 x not a PNG"):
        len(data.ImageFolder(path=str(tmp_path), size=8))
    with pytest.raises(sf.InputError, match="is not a folder"):
        len(data.ImageFolder(path=str(tmp_path / "a.png"), size=8))


def test_a_file_that_changes_later_is_refused(folder):
    ds = data.ImageFolder(path=str(folder), size=8)
    ds.batch([1], SEED)
    save(folder / "bee/d.png", picture(77, 8, 8))
    with pytest.raises(sf.InputError, match=r"bee/d.png .* has changed"):
        ds.batch([1], SEED)
    (folder / "bee/d.png").unlink()
    with pytest.raises(sf.InputError, match=r"No such file"):
        ds.batch([1], SEED)


def test_the_fingerprint_names_the_data(folder):
    ds = data.ImageFolder(path=str(folder), size=8)
    again = sf.from_config(sf.to_config(ds), data.Dataset)
    assert again == ds
    first = ds.fingerprint
    assert again.fingerprint == first
    assert data.ImageFolder(path=str(folder), size=8, labels=data.SubFolders()).fingerprint != first
    (folder / "bee/d.png").rename(folder / "bee/e.png")
    second = data.ImageFolder(path=str(folder), size=8).fingerprint
    save(folder / "bee/e.png", picture(77, 8, 8))
    assert len({first, second, data.ImageFolder(path=str(folder), size=8).fingerprint}) == 3


@pytest.mark.parametrize("change", [{"size": 0}, {"channels": 2}, {"flip": 1.5}, {"size": 5000}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(sf.InputError, match=f"ImageFolder.{next(iter(change))}"):
        data.ImageFolder(**({"path": "x", "size": 8} | change))
    with pytest.raises(sf.InputError, match="min_fraction"):
        data.RandomCrop(min_fraction=0.0)
