"""Preconditioned: what the network is given, in which dtype, and each row at its own time."""

import math

import pytest
import torch
from torch import nn

from sfumato.core import (
    EDM,
    VE,
    Eps,
    Flow,
    InputError,
    Karras,
    Plain,
    Preconditioned,
    Rectified,
    V,
    VPLinear,
    device_of,
    per_row,
    prepare,
)
from sfumato.testing import Counted, exact_network
from sfumato.testing.table import PICTURES


class Seen(nn.Module):
    """Remembers what it was called with."""

    cond = {"y": 10}  # noqa: RUF012

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.5, dtype=dtype))
        self.seen = []

    def embed(self, c_noise):
        return torch.cos(c_noise)[:, None]

    def trunk(self, x, emb, y=None):
        self.seen.append((x.detach().clone(), emb.detach().clone()))
        scale = (self.weight * emb).to(x.dtype).reshape(-1, *(1 for _ in x.shape[1:]))
        return x * scale if y is None else x * scale + y.to(x.dtype).reshape(-1, *(1 for _ in x.shape[1:]))

    def forward(self, x, c_noise, **cond):
        assert c_noise.dtype == torch.float32
        return self.trunk(x, self.embed(c_noise), **cond)


def test_edm_scaling_has_unit_variance_and_its_label():
    schedule = VE()
    for t in (0.2, 0.6, 1.0):
        alpha, sigma = schedule(t)
        c_in, c_noise = EDM(sigma_data=0.7)(t, alpha, sigma)
        assert c_in == pytest.approx(1 / math.sqrt(sigma**2 + 0.7**2))
        assert c_noise == pytest.approx(math.log(sigma) / 4)
    assert EDM()(0.0, 1.0, 0.0)[1] == pytest.approx(-5.0)  # clipped at |lambda| = 20
    assert EDM()(1.0, 0.0, 1.0)[1] == pytest.approx(5.0)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(EDM()(ends, *Rectified()(ends))[1], torch.tensor([-5.0, 5.0], dtype=torch.float64))


def test_edm_preconditioning_is_table_1():
    net, x = Seen(torch.float64), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    made = Preconditioned(net, VE(), Karras(), EDM())(x, 0.6)
    s = VE()(0.6)[1]
    c_skip, c_out = 0.25 / (s**2 + 0.25), s * 0.5 / math.sqrt(s**2 + 0.25)
    c_in = 1 / math.sqrt(s**2 + 0.25)
    out = net(c_in * x, torch.tensor([math.log(s) / 4], dtype=torch.float32))
    torch.testing.assert_close(made, c_skip * x + c_out * out, atol=1e-6, rtol=0)


def test_plain_label():
    assert Plain()(0.5, 0.1, 0.2) == (1.0, 500.0)
    assert Plain(scale=1000.0, shift=-1.0)(1.0, 0.1, 0.2) == (1.0, 999.0)  # a table's last index


@pytest.mark.parametrize("inside", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("outside", [torch.float32, torch.float64])
def test_the_one_cast(inside, outside):
    net = Seen(inside)
    made = Preconditioned(net, VPLinear(), V())(torch.ones(2, 3, dtype=outside), 0.5)
    assert net.seen[0][0].dtype == inside
    assert made.dtype == outside


@pytest.mark.parametrize("prediction", [Eps(), V(), Flow(), Karras()], ids=lambda p: type(p).__name__)
def test_a_time_for_each_row_where_b_h_w_are_equal(prediction):
    net = exact_network(PICTURES, VPLinear(), prediction)
    x, t = PICTURES.sample(4, 1, dtype=torch.float64), torch.tensor([0.125, 0.375, 0.5, 0.875], dtype=torch.float64)
    rows = torch.cat([net(x[i : i + 1], float(t[i])) for i in range(4)])
    torch.testing.assert_close(net(x, t), rows, atol=1e-12, rtol=0)


def test_prepared_is_the_same_and_embeds_once():
    net = Seen(torch.float64)
    plain = Preconditioned(net, Rectified(), Flow(), Plain(scale=10.0))
    times = [1.0, 0.6, 0.3]
    ready, x, y = prepare(plain, times), torch.randn(3, 2, dtype=torch.float64), torch.tensor([1, 2, 3])
    for t in [*times, 0.45]:  # the last was not announced
        torch.testing.assert_close(ready(x, t, y=y), plain(x, t, y=y), atol=1e-13, rtol=0)
    per = torch.tensor(times, dtype=torch.float64)
    torch.testing.assert_close(ready(x, per, y=y), plain(x, per, y=y), atol=1e-13, rtol=0)
    with pytest.raises(InputError, match="no condition 'z'"):
        ready(x, 1.0, z=y)
    assert prepare(Counted(plain), times) is not None


def test_refusals():
    d = Preconditioned(Seen(), VPLinear(), Eps())
    with pytest.raises(InputError, match="no condition 'Y'"):
        d(torch.zeros(2, 2), 0.5, Y=torch.zeros(2))
    with pytest.raises(InputError, match="one value a row"):
        per_row(torch.zeros(3), torch.zeros(2, 2))
    assert device_of(Counted(d)).type == "cpu"
