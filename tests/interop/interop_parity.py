"""What every class of another library is compared by: the same weights, inputs, outputs; and every weight matters."""

from __future__ import annotations

import copy

import torch

from sfumato.interop.links import read, write


def scrambled(model: torch.nn.Module, seed: int = 0, scale: float = 0.2) -> torch.nn.Module:
    """Return `model` in evaluation with every tensor refilled: zero-initialised branches would hide a wrong one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                centre = 1.0 if value.ndim == 1 and name.endswith("weight") else 0.0
                value.copy_(centre + scale * torch.randn(value.shape, generator=generator))
    return model.eval()


def ours(layout, theirs: torch.nn.Module, config=None) -> torch.nn.Module:
    """Return our network of their model's weights, having checked that both configurations and all tensors go round."""
    ours_config = layout.config(dict(theirs.config) if config is None else config)
    net = ours_config.build().eval()
    state = theirs.state_dict()
    tensors, missing, unused = read(layout.links(net), state)
    assert not missing
    assert not [name for name in unused if not layout.ignored(name)]
    net.load_state_dict(tensors, assign=True)
    back = write(layout.links(net), net.state_dict())
    assert all(torch.equal(back[name], state[name]) for name in back)
    assert {name for name in state if not layout.ignored(name)} <= set(back)
    again = type(theirs).from_config(layout.write(ours_config))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in state.items()}
    return net


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return |a - b| / |b|."""
    return float((a - b).norm() / b.norm())


def idle(net: torch.nn.Module, call) -> list[str]:
    """Return the weights of `net` whose change does not change `call(net)`: those without a gradient there."""
    with torch.enable_grad():
        y = call(net)
        seen = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        named = dict(net.named_parameters())
        slopes = torch.autograd.grad((y * seen).sum(), list(named.values()), allow_unused=True)
    # a bias of keys shifts all logits of a query alike: its slope is rounding
    return [n for n, g in zip(named, slopes, strict=True) if g is None or float(g.abs().max()) < 1e-6]


def halved(net: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of `net` in bfloat16."""
    return copy.deepcopy(net).to(torch.bfloat16)
