"""The MLP against the same network written out with joined features."""

from dataclasses import replace

import pytest
import torch

import sfumato as sf
from sfumato.core import Denoiser, InputError, Plain, from_config, to_config
from sfumato.nets.blocks.embedding import Fourier, NoFeature, Raw, Sinusoidal
from sfumato.nets.mlp import MLP, MLPConfig

ESSAY = MLPConfig(width=64, layers=3, position=Fourier(count=32), time=Fourier(count=16, seed=1))
CONFIGS = {
    "default": MLPConfig(),
    "no time": MLPConfig(width=64, time=NoFeature()),
    "linear time": MLPConfig(width=64, time=Raw(scale=1e-3)),
    "fourier": ESSAY,
    "classes": replace(ESSAY, num_classes=3, inputs=5, layers=1),
}


def build(config):
    torch.manual_seed(0)
    return config.build()


def written_out(net, x, c, y=None):
    """The network as the essay has it: one matrix on the joined features."""
    features = torch.cat([net.position(x), net.time(c[:, None]).expand(len(x), -1)], dim=1).to(x.dtype)
    h = features @ torch.cat([net.weight_x, net.weight_t]) + net.bias_in
    if y is not None:
        h = h + net.label.table.weight[y]
    h = torch.clamp(h, min=0)
    for weight, bias in zip(net.weight, net.bias, strict=True):
        h = torch.clamp(h @ weight + bias, min=0)
    return h @ net.weight_out + net.bias_out


@pytest.mark.parametrize("name", CONFIGS)
def test_is_the_joined_network(name):
    net = build(CONFIGS[name]).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, net.config.inputs, generator=generator, dtype=torch.float64)
    c = torch.linspace(0, 999, 7)
    y = torch.tensor([0, 1, 2, 3, 0, 1, 2]) if net.cond else None
    cond = {} if y is None else {"y": y}
    assert (net(x, c, **cond) - written_out(net, x, c, y)).abs().max() < 1e-12
    shared = net.trunk(x, net.embed(c[3:4]), **cond)  # one row of the embeddings for all
    assert (shared - written_out(net, x, c[3:4], y)).abs().max() < 1e-12


def test_starts_as_pytorch_does():
    net = build(ESSAY)
    for fan_in, *weights in (
        (96, net.weight_x, net.weight_t, net.bias_in),
        (64, net.weight, net.bias),
        (64, net.weight_out),
    ):
        for weight in weights:
            assert 0.9 * fan_in**-0.5 < float(weight.detach().abs().max()) <= fan_in**-0.5
            assert float(weight.detach().std()) == pytest.approx((3 * fan_in) ** -0.5, rel=0.15)


def test_the_essay_network_has_its_sizes():
    net = build(ESSAY)
    shapes = [tuple(p.shape) for p in net.parameters()]
    assert shapes == [(64, 64), (32, 64), (64,), (3, 64, 64), (3, 64), (64, 2), (2,)]


def test_no_time_does_not_see_the_time():
    net = build(CONFIGS["no time"])
    x = torch.randn(4, 2)
    assert torch.equal(net(x, torch.tensor([0.0])), net(x, torch.tensor([999.0])))
    other = build(CONFIGS["linear time"])
    assert not torch.equal(other(x, torch.tensor([0.0])), other(x, torch.tensor([999.0])))


def test_gradients_are_those_of_the_formula():
    net = build(CONFIGS["classes"]).double()
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    c, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 1, 2, 3])
    weights = [x, *net.parameters()]
    ours = torch.autograd.grad(net(x, c, y=y).square().sum(), weights)
    theirs = torch.autograd.grad(written_out(net, x, c, y).square().sum(), weights)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_compiles_without_a_break(name):
    net = build(CONFIGS[name])
    x, c = torch.randn(3, net.config.inputs), torch.tensor([5.0, 6.0, 7.0])
    cond = {"y": torch.tensor([0, 1, 3])} if net.cond else {}
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, c, **cond), net(x, c, **cond), atol=1e-5)


def test_without_labels_it_is_the_null_class():
    net = build(CONFIGS["classes"])
    x, c = torch.randn(2, 5), torch.tensor([1.0])
    assert net.cond == {"y": 3}
    assert torch.equal(net(x, c), net(x, c, y=torch.tensor([3, 3])))
    assert not torch.equal(net(x, c), net(x, c, y=torch.tensor([0, 0])))


def test_same_seed_same_frequencies_in_a_loaded_network():
    net = build(ESSAY)
    other = MLP(replace(ESSAY, position=Fourier(count=32, seed=9)))
    other.load_state_dict(net.state_dict())
    x, c = torch.randn(3, 2), torch.tensor([0.2])
    assert torch.equal(net(x, c), other(x, c))


def test_a_run_with_hoisted_times_is_the_run_without():
    for name in ("default", "classes"):
        net = build(CONFIGS[name]).double()
        denoiser = sf.Preconditioned(net, sf.VPLinear(), sf.Eps(), Plain())
        assert isinstance(denoiser, Denoiser)

        class Bare:
            schedule, cond = denoiser.schedule, denoiser.cond

            def __call__(self, x, t, denoiser=denoiser, **cond):
                return denoiser(x, torch.full((len(x),), t, dtype=torch.float64), **cond)

        cond = {"y": torch.tensor([0, 1, 2])} if net.cond else {}
        settings = {
            "solver": sf.solvers.DDIM(),
            "grid": sf.grids.uniform(denoiser.schedule, 5),
            "seeds": range(3),
            "dtype": torch.float64,
        }
        shape = (3, net.config.inputs)
        hoisted = sf.sample(denoiser, shape, cond=cond, **settings)
        plain = sf.sample(Bare(), shape, cond=cond, **settings)
        # labels are float32 in both, but 1000 t is rounded at another place
        assert (hoisted - plain).abs().max() < 1e-6 * plain.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip(name):
    config = CONFIGS[name]
    assert from_config(to_config(config)) == config
    assert config.build().config == config


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLPConfig(inputs=0),
        lambda: MLPConfig(width=0),
        lambda: MLPConfig(layers=-1),
        lambda: MLPConfig(position=Sinusoidal(dim=4)),
        lambda: MLPConfig(num_classes=0).build(),
        lambda: MLPConfig().build()(torch.zeros(1, 2), torch.zeros(1), y=torch.tensor([0])),
    ],
)
def test_refused(make):
    with pytest.raises(InputError):
        make()
