"""Whatever a network does with tensors, its recorded run replays to the values of the eager one, or is refused."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sfumato as sf
from sfumato.core import InputError, compiled

W = torch.linspace(-1.0, 1.0, 12).reshape(3, 4)  # a weight
GRU = torch.nn.GRU(4, 4).requires_grad_(False)


def _into(x, fill):
    """Return a copy of x, after `fill` has changed it in place."""
    y = x.clone()
    fill(y)
    return y


def _gradient(x, function):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]


def _views(x, t):
    y = x.clone()
    rows, columns = y[:2], y[:, 1:]
    rows.mul_(t)
    columns += rows.sum()
    return y + F.pad(rows, (0, 0, 0, 1))


def _constant_in_place(x, t):
    table = torch.zeros(4)
    row = table[1:3]
    row.add_(torch.tensor([t, 2.0]))
    torch._foreach_mul_([table], 0.5)  # gives nothing back
    return x + table


def _outputs(x, t):
    high, _ = x.max(1)
    first, *_, last = x.split([1, 2, 1], dim=1)
    spread, mean = torch.std_mean(x, 1)
    ordered, order = x.sort(1)
    return x * t + high[:, None] + first - last + (spread * mean)[:, None] + ordered * order


def _out(x, t, name, *args, **kwargs):
    place = torch.empty_like(x)
    getattr(torch, name)(x, *args, out=place, **kwargs)
    return place * t


def _several_out(x):
    places = torch.empty(3), torch.empty(3, dtype=torch.long)
    torch.max(x, 1, out=places)
    return x + places[0][:, None] * places[1][:, None]


def _numbers(x, t):
    scale = torch.tensor([t, 1.0 - t, 2.0, 3.0])
    scale[0] = 0.5
    return x * scale + torch.full((4,), t) + torch.as_tensor([t] * 4) * torch.arange(4)


def _foreach(x, t):
    parts = [v.clone() for v in x.unbind()]
    torch._foreach_mul_(parts, t)
    torch._foreach_add_(parts, list(W.unbind()), alpha=0.25)
    return torch.stack(torch._foreach_add(parts, [x[0]] * 3, alpha=t))


ADDED = {
    "add": lambda x, t: torch.add(x, W, alpha=t),
    "add twice": lambda x, t: torch.add(x, W, alpha=2),
    "add a number": lambda x, t: torch.add(x, 3, alpha=2) - torch.add(x, 0.5, alpha=t) + torch.add(x, 2, alpha=t),
    "a number first": lambda x, t: torch.add(t, x) + torch.mul(2, x) + torch.sub(1.5, x) + torch.mul(t, x),
    "sub": lambda x, t: torch.sub(x, W, alpha=t) - torch.sub(x, 2.0, alpha=t),
    "rsub": lambda x, t: torch.rsub(x, W, alpha=t) + torch.rsub(x, t, alpha=3) + (1.0 - x),
    "in place": lambda x, t: x.clone().add_(W, alpha=t).sub_(W.T.reshape(3, 4), alpha=0.5).mul_(t).div_(3.0),
    "integers": lambda x, t: torch.add(x, torch.arange(4), alpha=t) + torch.arange(4) * t + torch.arange(4) / 3,
    "integers multiplied": lambda x, t: x + W.T[:3] @ (W @ (torch.arange(4) * t))[:, None],  # a product needs one dtype
    "means multiplied": lambda x, t: x + (x.mean() * t).expand(3, 1) @ W[:1],
    "half": lambda x, t: torch.add(x, W.bfloat16(), alpha=t) + (x.bfloat16() * t).float(),
    "double": lambda x, t: torch.add(x, W.double(), alpha=t).float() + x.clone().add_(W.double(), alpha=t),
    "no dimensions": lambda x, t: torch.add(x, x.mean(), alpha=t) + x.mean() * t + x.long().sum() * t,
    "into integers": lambda x, t: x.mul(9).long().mul_(2).add(1).float() * t,
    "out": lambda x, t: _out(x, t, "add", W, alpha=t) + _out(x, t, "mul", 2.5) + _out(x, t, "sub", 1.5, alpha=2.0),
    "complex": lambda x, t: torch.fft.fft(x).mul(t).add(W * 1j, alpha=t).conj().mul(1 + 2j).imag,
    "rounded": lambda x, t: x.div(t, rounding_mode="floor") + x.remainder(0.3) * t,
}
BETAS = {
    "addr_": lambda x, t: x.clone().view(1, -1).addr_(x.new_ones(1), W.view(-1), beta=t, alpha=0.5 - t).view_as(x),
    "addr": lambda x, t: torch.addr(x, W[:, 0], W[1], beta=t, alpha=2.0),
    "addmm": lambda x, t: torch.addmm(x, W, x.T @ x, beta=t, alpha=0.1) + torch.addmm(x[0], x, W.T @ W, alpha=t),
    "addmv": lambda x, t: torch.addmv(x[:, 0], W, x[1], beta=t, alpha=0.3)[:, None] + x,
    "baddbmm": lambda x, t: torch.baddbmm(x[None], W[None], (x.T @ x)[None], beta=0.5, alpha=t)[0],
    "addbmm": lambda x, t: torch.addbmm(x, W[None], (x.T @ x)[None], beta=t, alpha=0.5),
    "addcmul": lambda x, t: torch.addcmul(x, W, x, value=t) + x.clone().addcmul_(W, W, value=2.0),
    "addcdiv": lambda x, t: torch.addcdiv(x, W, 2.0 + x * x, value=t) + x.clone().addcdiv_(W, W + 3, value=-t),
    "lerp": lambda x, t: torch.lerp(x, W, t) + torch.lerp(x, W, W.abs()) + x.clone().lerp_(W, t),
    "a hyperplane": lambda x, t: F.elu(x, alpha=t) + F.celu(x, alpha=0.5) + F.leaky_relu(x, t) + F.threshold(x, t, 0.1),
}
MEMORY = {
    "views": _views,
    "a transposed view": lambda x, t: _into(x, lambda y: y.T[1].mul_(t)),
    "strides": lambda x, t: _into(x, lambda y: y.view(-1)[::5].zero_().add_(t)),
    "overlap": lambda x, t: _into(x, lambda y: y.view(-1)[1:].add_(y.view(-1)[:-1].clone(), alpha=t)),
    "an entry": lambda x, t: _into(x, lambda y: y[0].__setitem__(slice(1, 3), t)),
    "a mask": lambda x, t: _into(x, lambda y: y.__setitem__(y > 0, t)),
    "indices": lambda x, t: x[torch.tensor([2, 0, 1])] + _into(x, lambda y: y.index_add_(0, torch.tensor([1]), x[:1])),
    "copies": lambda x, t: x.new_zeros(3, 4).copy_(x).mul_(t) + x.to(x.dtype).contiguous().view_as(x),
    "constants": _constant_in_place,
    "numbers": _numbers,
    "foreach": _foreach,
    "several out": lambda x, t: _several_out(x),
    "outputs": _outputs,
    "data": lambda x, t: x.data * t + torch.nn.Parameter(x) + x.detach(),
    "a data view": lambda x, t: _into(x, lambda y: y.data[0].mul_(t)),
    "from numpy": lambda x, t: x * torch.from_numpy(W[0].numpy().copy()) * t,
    "complex views": lambda x, t: _into(x, lambda y: torch.view_as_complex(y.view(3, 2, 2)).mul_(1j)),
    "nothing": lambda x, t: torch.cat([x[:0], x, x.new_empty(0, 4)]) * t,
    "a cast down": lambda x, t: _into(x.bfloat16(), lambda y: y.add_(W, alpha=t)).float(),
}
WHOLE = {
    "gradients": lambda x, t: _gradient(x, lambda v: v.mul(t).exp() + v.tanh().sigmoid() + v.norm(dim=1, keepdim=True)),
    "functional gradients": lambda x, t: torch.func.grad(lambda v: v.mul(t).exp().sum())(x),
    "rows": lambda x, t: torch.vmap(lambda v: v * t + v.sum().exp())(x),
    "tangents": lambda x, t: torch.func.jvp(lambda v: v.sin() * t, (x,), (W,))[1],
    "attention": lambda x, t: F.scaled_dot_product_attention(*(v.view(1, 1, 3, 4) for v in (x, W, x * t)))[0, 0],
    "convolution": lambda x, t: F.conv2d(F.pad(x[None, None], (1, 1, 1, 1)), W.view(1, 1, 3, 4)[..., :3]).squeeze() * t,
    "norms": lambda x, t: F.layer_norm(x, (4,), W[0]) * t + F.group_norm(x, 2) + F.normalize(x),
    "recurrence": lambda x, t: GRU(x[None])[0][0] * t + x.cumsum(1),
    "products": lambda x, t: torch.einsum("ij,kj,k->ij", x, W, W[:, 0]) * t + torch.logsumexp(x, 1, True),
    "pooling": lambda x, t: F.interpolate(F.max_pool1d(x[None], 2), 4)[0] * t,
    "eval": lambda x, t: F.dropout(x, 0.5, training=False) * t + F.rrelu(x),
    "scatter": lambda x, t: torch.zeros_like(x).scatter_(1, x.argsort(1), x * t) + x.gather(1, x.argsort(1)),
}
REPLAYED = ADDED | BETAS | MEMORY | WHOLE
HALF = ["half", "a cast down"]
GROUPS = [HALF, *([name for name in REPLAYED if name not in HALF][i::8] for i in range(8))]  # compiled as one

weight = W.clone()
READ = "go by values of the state"
REFUSED = {
    "item": (lambda x: x * x.mean().item(), READ),
    "if": (lambda x: x if x.sum() > 0 else -x, READ),
    "list": (lambda x: x + torch.tensor(x.tolist()), READ),
    "numpy": (lambda x: x + torch.from_numpy(x.numpy().copy()), READ),
    "array": (lambda x: x + torch.tensor(memoryview(x[0].detach().__array__()).tolist()), READ),
    "from a view": (lambda x: x * _into(torch.zeros(3), lambda y: y[1:].copy_(x[0, :2])).sum().item(), READ),
    "from foreach": (lambda x: x * float(_into(torch.zeros(1), lambda y: torch._foreach_copy_([y], [x[0, :1]]))), READ),
    "from out": (lambda x: x * float(_into(torch.zeros(()), lambda y: torch.sum(x, (0, 1), out=y))), READ),
    "equal": (lambda x: x if torch.equal(x, W) else -x, READ),
    "nonzero": (lambda x: x + len(x.nonzero()), READ),
    "masked": (lambda x: x + x[x > 0].sum(), READ),
    "unique": (lambda x: x + x.long().unique().sum(), READ),
    "deepcopy": (lambda x: x + copy.deepcopy(x), READ),
    "apply": (lambda x: x.clone().apply_(lambda v: 2 * v), READ),
    "text": (lambda x: x * len(f"{x}"), READ),
    "data changed": (lambda x: _into(x, lambda y: setattr(y, "data", W)), READ),
    "randn": (lambda x: x + torch.randn(4), "random numbers"),
    "dropout": (lambda x: F.dropout(x, 0.5), "random numbers"),
    "a generator": (lambda x: x + torch.rand(4, generator=torch.Generator().manual_seed(0)), "random numbers"),
    "unsqueeze_": (lambda x: x.clone().unsqueeze_(0)[0], "changes the shape"),
    "set_": (lambda x: x.clone().set_(W), "changes the shape"),
    "a weight": (lambda x: x + weight.mul_(0.5), "not the run's"),
    "sparse": (lambda x: x.to_sparse().to_dense(), "layout"),
    "a branch": (lambda x: torch.cond(torch.tensor(True), torch.sin, torch.cos, (x,)), "higher order|compiler itself"),
}


class Program:
    """The denoiser whose network is `function` of (x, t)."""

    def __init__(self, function):
        self.cond, self.schedule, self.function = {}, sf.VPLinear(), function

    def __call__(self, x, t):
        return torch.tanh(self.function(x, t)).to(x)


def draw(denoiser, compile, seed=0, solver=None) -> Tensor:
    solver = sf.solvers.DPMpp2M() if solver is None else solver
    grid = sf.grids.uniform(denoiser.schedule, 6)
    return sf.sample(denoiser, (3, 4), solver=solver, grid=grid, seeds=range(seed, seed + 3), compile=compile)


def same(function, bar=1e-6, solver=None) -> None:
    denoiser = Program(function)
    for seed in (0, 7, 0):  # recorded from one start, replayed from others
        ours, eager = draw(denoiser, True, seed, solver), draw(Program(function), False, seed, solver)
        torch.testing.assert_close(ours, eager, rtol=bar, atol=bar)


@pytest.mark.parametrize("name", REPLAYED)
def test_what_a_network_does_replays(name, monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", lambda form: form.graph())  # the graphs as they are, uncompiled
    same(REPLAYED[name])


def test_a_number_among_outputs_is_no_tensor(monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", lambda form: form.graph())
    with torch.library._scoped_library("record_test", "FRAGMENT") as library:
        library.define("counted(Tensor x) -> (int, Tensor)")  # as kernels of attention have it on a GPU
        library.impl("counted", lambda x: (0, x.sin()), "CompositeExplicitAutograd")
        same(lambda x, t: torch.ops.record_test.counted(x)[1] * t + x.cos())


def test_autocast_is_written_down(monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", lambda form: form.graph())

    def rounding(x, t):
        with torch.autocast("cpu", enabled=False):
            exact = x @ W.T
        return 100 * (x @ W.T - exact) @ W

    with torch.autocast("cpu", torch.bfloat16):
        same(rounding)
    assert draw(Program(rounding), True).abs().max() < 1e-6 < draw(Program(lambda x, t: x), True).abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_what_a_network_does_compiles(names):
    mean = lambda x, t: torch.stack([torch.tanh(REPLAYED[name](x, t)).to(x) for name in names]).mean(0)
    # a compiler keeps in float32 what bfloat16 would have rounded in between
    same(mean, 1e-2 if names is HALF else 1e-5, sf.solvers.DDIM())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replayed_is_refused(name):
    function, reason = REFUSED[name]
    with pytest.raises(InputError, match=rf"DPMpp2M cannot be compiled .*({reason}).*leave compile out"):
        draw(Program(lambda x, t: function(x)), True)
    assert torch.equal(weight, W)  # refused before it was written to
