"""Several prompts and pictures with control and guidance: each row is what it would be alone."""

import diffusers
import pytest
import tiny_folders
import tiny_text
import torch
from interop_parity import scrambled
from test_interop_control_pictures import _picture
from test_interop_ip_adapter import _encoder
from test_interop_steered_pictures import ip_file

import sfumato as sf
from sfumato import InputError
from sfumato.conditioning.vision import read_image_tower
from sfumato.interop.diffusers.folder import read_network
from sfumato.interop.ip_adapter import read_ip_adapter
from sfumato.pipeline.steering import ByControlNet, ByImage

ASKED = {"negative": "ugly", "guidance": 5.0, "steps": 4}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steered")
    theirs = tiny_folders.sd()
    theirs.save_pretrained(folder / "model")
    _encoder().save_pretrained(folder / "tower")
    ip_file(folder / "ip.safetensors", theirs.unet, tiny_text.WIDTH)
    pipe = sf.load(folder / "model")
    adapter = read_ip_adapter(folder / "ip.safetensors", pipe.denoiser.net).adapter
    shape = {k: v for k, v in tiny_folders.UNET.items() if k not in ("sample_size", "up_block_types")}
    made = diffusers.ControlNetModel(**shape, conditioning_embedding_out_channels=(8, 16))
    scrambled(made, 1, scale=0.2).save_pretrained(folder / "control")  # large enough for the hint to show
    return pipe, read_network(folder / "control"), adapter, read_image_tower(folder / "tower")


def steering(case, number):
    """Return control of all kinds by the pictures of a sample, or by those of several."""
    _, net, adapter, tower = case
    numbers = number if isinstance(number, list) else [number]
    hints, shown = [_picture(n) for n in numbers], [_picture(n + 20) for n in numbers]
    if not isinstance(number, list):
        hints, shown = hints[0], shown[0]
    return {
        "net": [ByControlNet(net=net, hint=hints, scale=0.8)],
        "guess": [ByControlNet(net=net, hint=hints, guess=True)],
        "image": [ByImage(adapter=adapter, image=shown, tower=tower, scale=0.7)],
        "both": [
            ByControlNet(net=net, hint=hints, scale=0.8, end=0.6),
            ByImage(adapter=adapter, image=shown, tower=tower, scale=0.7),
        ],
    }


@pytest.mark.parametrize(
    "kind", ["image", "both", *(pytest.param(k, marks=pytest.mark.slow) for k in ("net", "guess"))]
)
def test_rows_of_several_prompts_are_what_they_are_alone(kind, case):
    pipe, prompts = case[0], ["a red cat", "the dog"]
    # one picture for all, and one each
    for numbers, control in ((7, steering(case, 7)), ([0, 1, 2, 3], steering(case, [0, 1, 2, 3]))):
        whole = pipe(prompts, n=2, seed=5, control=control[kind], **ASKED)
        for row in range(4):
            alone = steering(case, numbers if isinstance(numbers, int) else numbers[row])[kind]
            one = pipe(prompts[row // 2], n=1, seed=5 + row, control=alone, **ASKED)
            torch.testing.assert_close(whole.pixels[row : row + 1], one.pixels, rtol=1e-3, atol=1e-3)
        other = pipe(prompts, n=2, seed=5, control=steering(case, [3, 2, 1, 0])[kind], **ASKED)
        assert (other.pixels - whole.pixels).abs().max() > 0.02
    assert pipe.again(whole.settings(), control=control[kind]).request["control"] == whole.request["control"]
    with pytest.raises(InputError, match="control is not the one"):
        pipe.again(whole.settings(), control=steering(case, [3, 2, 1, 0])[kind])


@pytest.mark.parametrize("kind", ["net", "image"])
@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_pictures_for_another_number_of_samples_are_refused(kind, guidance, case):
    pipe = case[0]
    with pytest.raises(InputError, match=r"give one row, or one a sample|2 pictures for 4 samples"):
        pipe(["a red cat", "the dog"], n=2, steps=2, guidance=guidance, control=steering(case, [0, 1])[kind])


def test_control_goes_with_masks_and_with_a_start_from_a_picture(case):
    pipe, hole = case[0], torch.zeros(1, 1, 16, 16)
    hole[..., 8:] = 1.0
    kept = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    control = steering(case, 7)["both"]
    out = pipe("a red cat", n=1, image=kept, mask=hole, control=control, **ASKED)
    assert torch.equal(out.pixels[..., :8], kept[..., :8])
    plain = pipe("a red cat", n=1, image=kept, mask=hole, **ASKED)
    assert (out.pixels - plain.pixels)[..., 8:].abs().max() > 0.05
