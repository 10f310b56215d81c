"""A pipeline adds nothing to `core.sample`, and says what it cannot do."""

import dataclasses

import pytest
import torch
from pipeline_toys import make

import sfumato as sf
from sfumato.conditioning import Classes
from sfumato.guidance import ClassifierFree, Interval, Rescale
from sfumato.pipeline import GRIDS, SOLVERS
from sfumato.solvers import DDIM


def direct(pipe, labels, seeds, denoiser=None, solver=None, grid=None):
    """The same samples, straight from the core."""
    pipe.denoiser.eval()
    denoiser = denoiser or pipe.denoiser
    return sf.sample(
        denoiser,
        (len(labels), *pipe.shape),
        solver=solver or pipe.defaults.solver,
        grid=GRIDS[pipe.defaults.grid](denoiser.schedule, 3) if grid is None else grid,
        seeds=seeds,
        cond={"y": torch.tensor(labels)},
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_by_name_is_that_solver(pipe, name):
    if name == "ddpm-learned":
        with pytest.raises(sf.InputError, match="learned variance needs"):
            pipe("dog", n=2, seed=5, solver=name, guidance=1.0)
        return
    out = pipe("dog", n=2, seed=5, solver=name, guidance=1.0)
    assert torch.equal(out.tensor, direct(pipe, [1, 1], [5, 6], solver=SOLVERS[name]))


def test_guidance_is_nested_as_the_guidance_room_has_it(pipe):
    d = pipe.denoiser
    free = ClassifierFree(denoiser=d, scale=3.0)
    interval = Interval(denoiser=free, low=0.1, high=10.0)
    cases = {
        (): (ClassifierFree(denoiser=d, scale=2.0), {}),
        (1,): (free, {"guidance": 3.0}),
        (2,): (interval, {"guidance": 3.0, "guidance_interval": (0.1, 10.0)}),
        (3,): (Rescale(denoiser=free, phi=0.7, space=sf.V()), {"guidance": 3.0, "rescale": 0.7}),
        (4,): (
            Rescale(denoiser=interval, phi=0.7, space=sf.V()),
            {"guidance": 3.0, "rescale": 0.7, "guidance_interval": (0.1, 10.0)},
        ),
    }
    tensors = []
    for guided, options in cases.values():
        out = pipe(["cat", "dog"], n=1, seed=5, **options)
        assert torch.equal(out.tensor, direct(pipe, [0, 1], [5, 6], denoiser=guided))
        tensors.append(out.tensor)
    for i, a in enumerate(tensors):
        for b in tensors[:i]:
            assert not torch.allclose(a, b, atol=1e-4)


def test_grid_by_name_by_times_and_by_steps(pipe):
    times = GRIDS["quadratic"](pipe.denoiser.schedule, 4)
    named = pipe("dog", n=1, grid="quadratic", steps=4, guidance=1.0)
    assert torch.equal(named.tensor, pipe("dog", n=1, grid=times, guidance=1.0).tensor)
    assert torch.equal(named.tensor, direct(pipe, [1], [0], grid=times))
    assert named.request["steps"] == 4
    with pytest.raises(sf.InputError, match="steps=5 but the grid has 4"):
        pipe("dog", grid=times, steps=5)
    with pytest.raises(sf.InputError, match="falling"):
        pipe("dog", grid=[0.0, 1.0])


def test_classes_by_name_by_index_and_in_lists(pipe):
    by_name = pipe(["cat", "dog"], n=2, seed=3)
    assert torch.equal(by_name.tensor, pipe([0, "1"], n=2, seed=3).tensor)
    assert by_name.prompts == ("cat", "cat", "dog", "dog")
    assert by_name.seeds == (3, 4, 5, 6)
    # a name wins over an index: "7" is class 2 here
    assert torch.equal(pipe("7", n=1).tensor, pipe(2, n=1).tensor)


def test_without_a_class_nothing_is_guided(pipe):
    assert torch.equal(pipe(n=2).tensor, direct(pipe, [3, 3], [0, 1]))
    assert pipe(n=2).request["guidance"] == 1.0
    mixed = pipe([None, "dog"], n=1)
    guided = ClassifierFree(denoiser=pipe.denoiser, scale=2.0)
    assert torch.equal(mixed.tensor, direct(pipe, [3, 1], [0, 1], denoiser=guided))
    assert torch.allclose(mixed.tensor[:1], pipe(n=1).tensor, atol=1e-5)


def test_a_row_depends_on_its_own_seed_and_class_alone(pipe):
    batch = pipe(["cat", "dog"], n=3, seed=10).tensor
    alone = pipe("dog", n=1, seed=14).tensor
    assert torch.allclose(batch[4:5], alone, atol=1e-5)
    assert not torch.allclose(batch[3:4], alone, atol=1e-2)


def test_dropout_is_off_while_sampling_and_back_afterwards(pipe):
    pipe.denoiser.train()
    frozen = next(m for m in pipe.denoiser.net.modules() if isinstance(m, torch.nn.GroupNorm))
    frozen.eval()
    first = pipe("dog", n=1).tensor
    assert torch.equal(first, pipe("dog", n=1).tensor)
    assert pipe.denoiser.training
    assert not frozen.training
    with pytest.raises(KeyboardInterrupt):
        pipe("dog", n=1, callback=lambda k, x: (_ for _ in ()).throw(KeyboardInterrupt))
    assert pipe.denoiser.training


def test_callback_sees_every_step(pipe):
    seen = []
    pipe("dog", n=2, steps=5, callback=lambda k, x: seen.append((k.i, k.n, tuple(x.shape))))
    assert seen == [(i, 5, (2, 1, 4, 4)) for i in range(5)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "catt"}, "no class is called 'catt'; did you mean 'cat'"),
        ({"prompt": 3}, "there is no class 3: classes are 0 to 2"),
        ({"prompt": -1}, "no class is called '-1'"),
        ({"prompt": True}, "no class"),
        ({"prompt": "١٢"}, "there is no class 12"),
        ({"prompt": []}, "prompts=0"),
        ({"n": 0}, "n=0"),
        ({"n": 2.5}, "n=2.5"),
        ({"seed": -1}, "seed=-1"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 3.0}, "steps=3.0"),
        ({"steps": "3"}, "steps='3'"),
        ({"grid": []}, "at least two times, got the shape \\[0\\]"),
        ({"grid": [[1.0, 0.0]]}, "got the shape \\[1, 2\\]"),
        ({"grid": [999, 500, 0]}, "from 1, noise, to 0, data; got 999 to 0"),
        ({"grid": [1.0, float("nan"), 0.0]}, "from 1, noise, to 0, data"),
        ({"solver": sf.solvers.Heun}, "the class Heun is no solver"),
        ({"solver": 3}, "3 is no solver"),
        ({"size": "4x4"}, "size='4x4' must be \\(height, width\\)"),
        ({"size": 4}, "size=4 must be"),
        ({"size": (4.0, 4)}, "height=4.0 must be a whole number"),
        ({"control": 3}, "control must be a list of what steers"),
        ({"control": [torch.nn.Identity()]}, "control must be a list of what steers"),
        ({"n": 1, "start": torch.zeros(1, 3, 4, 4)}, "start must be \\[1, 1, 4, 4\\].*got \\[1, 3, 4, 4\\]"),
        ({"solver": "dpm++2n"}, "unknown solver 'dpm\\+\\+2n'; did you mean 'dpm\\+\\+2s'"),
        ({"grid": "karas"}, "unknown grid 'karas'; did you mean 'karras'"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"guidance": 1.0, "rescale": 0.5}, "rescale=0.5 does nothing without guidance"),
        ({"guidance": 1.0, "guidance_interval": (0, 1)}, "guidance_interval"),
        ({"prompt": "dog", "guidance_interval": (2, 1)}, "low <= high"),
        ({"prompt": "dog", "guidance_interval": (2,)}, "needs \\(low, high\\)"),
    ],
)
def test_what_cannot_be_done_is_said(pipe, arguments, message):
    with pytest.raises(sf.InputError, match=message) as caught:
        pipe(**arguments)
    assert "\n" not in str(caught.value)


def test_an_unconditional_model_takes_no_prompt_and_no_guidance(cloud):
    with pytest.raises(sf.InputError, match="takes no prompt"):
        cloud("dog")
    with pytest.raises(sf.InputError, match="needs a condition"):
        cloud(guidance=2.0)


def test_parts_must_fit():
    with pytest.raises(sf.InputError, match="2 different class names for a network of 3"):
        make(conditioner=Classes(names=("a", "b")))
    with pytest.raises(sf.InputError, match="2 different names for 3 classes"):
        make(conditioner=Classes(names=("a", "b", "b")))
    with pytest.raises(sf.InputError, match="pixels have the shape"):
        make(shape=(2, 4, 4))
    assert make(conditioner=None).classes == ("0", "1", "2")


def test_the_hash_follows_the_weights_and_the_parts(pipe):
    first = pipe.sha256()
    assert make().sha256() == first
    assert make(seed=1).sha256() != first
    other = make()
    other.denoiser.prediction = sf.Eps()
    assert other.sha256() != first
    with torch.no_grad():
        next(pipe.denoiser.parameters()).mul_(1.0001)
    assert pipe.sha256() != first


def test_with_defaults_shares_the_weights(pipe):
    other = pipe.with_defaults(solver=DDIM(), steps=2)
    assert other.denoiser is pipe.denoiser
    assert torch.equal(other("dog").tensor, pipe("dog", solver="ddim", steps=2).tensor)
    assert dataclasses.replace(pipe, defaults=other.defaults)("dog").request["steps"] == 2


def test_a_network_of_ones_own_can_be_asked_but_not_written(tmp_path):
    class Own(torch.nn.Module):
        cond = {}  # noqa: RUF012

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, c_noise):
            return self.weight * x

    pipe = sf.Pipeline(denoiser=sf.Preconditioned(Own(), sf.VPCosine(), sf.V()), shape=(1, 2, 2))
    out = pipe(n=1, steps=2)
    again = pipe.again(sf.pipeline.read_settings(out.save(tmp_path)[0]))
    assert torch.equal(again.tensor, out.tensor)
    first = pipe.sha256()
    with torch.no_grad():
        pipe.denoiser.net.weight.fill_(2)
    assert pipe.sha256() != first
    with pytest.raises(sf.InputError, match="Own has no `config`"):
        pipe.save(tmp_path / "m")
