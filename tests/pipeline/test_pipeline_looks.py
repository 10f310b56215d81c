"""Sheets, looks at a run, and second passes: what they show is what separate calls make."""

import pytest
import torch
from pipeline_toys import make
from test_pipeline_given import latent

import sfumato as sf
from sfumato.codecs import Preview
from sfumato.pipeline import enlarged, sheet, sweep, watching


def test_a_sweep_is_its_calls_from_the_same_seeds():
    pipe = make()
    found = sweep(pipe, ("guidance", [1.0, 3.0]), ("steps", [2, 3, 4]), prompt="cat", n=1, seed=5)
    assert [[o.request["steps"] for o in line] for line in found] == [[2, 3, 4]] * 2
    assert torch.equal(found[1][2].tensor, pipe("cat", n=1, seed=5, guidance=3.0, steps=4).tensor)
    page = sheet(pipe, ("guidance", [1.0, 3.0]), ("solver", ["ddim", sf.solvers.Heun()]), prompt="cat", n=1)
    assert page.width > 2 * 64
    assert page.height > 2 * 64
    colours = page.convert("L").getextrema()
    assert colours[0] < 100 < colours[1]  # labels are written


@pytest.mark.parametrize(
    ("rows", "columns", "call"),
    [
        (("steps", []), ("seed", [1]), {}),
        (("steps", [2]), ("steps", [3]), {}),
        (("steps", [2]), ("seed", [1]), {"seed": 3}),
    ],
)
def test_axes_that_say_nothing_are_refused(rows, columns, call):
    with pytest.raises(sf.InputError, match="axis"):
        sweep(make(), rows, columns, **call)


def test_a_look_is_the_state_over_alpha_by_the_matrix():
    pipe, seen = latent(), []
    matrix = Preview(matrix=((1.0, 0, 0, 0), (0, 1.0, 0, 0), (0, 0, 1.0, 0)), offset=(0.0, 0.0, 0.0))
    states = []
    show = watching(pipe, lambda k, pictures: seen.append((k.i, pictures)), every=2, preview=matrix)

    def both(k, x):
        states.append((x / max(k.alpha_s, 1e-3))[0, 0, 1, 2].clamp(-1, 1).item())
        show(k, x)

    pipe(n=2, steps=5, callback=both)
    assert [i for i, _ in seen] == [1, 3, 4]
    for i, pictures in seen:
        assert len(pictures) == 2
        assert pictures[0].size == (4, 4)
        assert abs(pictures[0].getpixel((2, 1))[0] - (states[i] + 1) * 127.5) <= 0.51
    fitted = []
    pipe(n=1, steps=2, callback=watching(pipe, lambda k, pictures: fitted.extend(pictures)))
    assert len(fitted) == 2
    pixels = []
    make()("cat", n=1, steps=2, callback=watching(make(), lambda k, pictures: pixels.extend(pictures)))
    assert pixels[-1].tobytes() == make()("cat", n=1, steps=2).images[0].tobytes()


def test_enlarging_is_a_second_pass_over_the_enlarged_picture():
    pipe = latent()
    out = pipe(n=2, steps=6, seed=3)
    large = enlarged(pipe, out, scale=2.0, strength=0.5)
    assert [o.pixels.shape for o in large] == [(1, 3, 16, 16)] * 2
    picture = torch.nn.functional.interpolate(out.pixels, (16, 16), mode="bicubic", align_corners=False).clamp(-1, 1)
    second = pipe(n=1, seed=4, steps=6, image=picture[1], strength=0.5, size=(16, 16), guidance=1.0)
    assert torch.equal(large[1].pixels, second.pixels)
    with pytest.raises(sf.InputError, match="enlarges nothing"):
        enlarged(pipe, out, scale=1.0)
