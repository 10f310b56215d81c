"""P5, P5b: one forward pass of a U-Net of 9.0 M parameters on 16 pictures of 3x32x32, against `UNet2DModel`.

P5 is the same network, the peer's default with heads of 8, on the same weights. P5b is our default, whose heads are 64
wide at equal parameters and FLOPs, against the peer's default; bf16 there stands against the peer's float32. The
outputs of P5b are compared with the peer's network of the same head width and weights.
"""

from dataclasses import replace

import torch
from diffusers_unet import ours, peer
from harness import compare, finish

from sfumato.nets.unet import small

BATCH = 16
F32, BF16 = torch.float32, torch.bfloat16


def pair(head_width):
    """Return (diffusers' network, ours) with heads of that width and the same random weights."""
    torch.manual_seed(0)
    config = replace(small(), head_width=head_width)
    theirs = peer(config).eval()
    return theirs, ours(config, theirs.state_dict()).eval()


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 3, 32, 32, generator=generator)
    t = torch.full((BATCH,), 500.0)

    def run(net, dtype):
        out = net(x.to(dtype), t)
        return getattr(out, "sample", out)

    def distance(a, b):
        return float((a.float() - b).norm() / b.norm())

    default, same = pair(8)
    twin, small_heads = pair(64)
    exact = {8: run(default, F32), 64: run(twin, F32)}
    # bf16: ours may be no further from float32 than the peer's own bf16
    bars = {(width, F32): 1e-5 for width in exact}
    for width, net in ((8, default), (64, twin)):
        bars[width, BF16] = distance(run(net.to(BF16), BF16), exact[width])
    rows = (
        ("P5 same network, float32", F32, F32, same, 8, 1.0, 1.1),
        ("P5 same network, bf16", BF16, BF16, same, 8, 1.05, 1.2),
        ("P5 same network, bf16 over its float32", F32, BF16, same, 8, 1.3, 1.65),
        ("P5b default network, float32", F32, F32, small_heads, 64, 1.15, 1.25),
        ("P5b default network, bf16 over its float32", F32, BF16, small_heads, 64, 1.7, 2.0),
    )
    for name, dtype, own, net, width, floor, goal in rows:
        default.to(dtype), net.to(own)
        if own == F32:  # a round trip through bf16 would have rounded the weights
            net.load_state_dict(ours(net.config, pair(width)[0].state_dict()).state_dict())
        compare(
            name,
            peer=lambda dtype=dtype: run(default, dtype),
            ours=lambda net=net, own=own: run(net, own),
            floor=floor,
            goal=goal,
            error=lambda net=net, own=own, width=width: distance(run(net, own), exact[width]),
            bar=bars[width, own],
        )


if __name__ == "__main__":
    main()
    finish()
