"""Decoding with the autoencoder of Stable Diffusion: ours against diffusers', time and peak memory.

    python -m benchmarks.codec [--size 256] [--dtype float32] [--memory 512]

Random weights of the published shape, the same for both; ours with its weights in channels last, as the page on codecs
says, theirs as it comes. Peak memory is that of a process of its own (its largest
resident size less what it had before the decode; Linux); time is CPU time, round by round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import compare, finish

MODES = ("diffusers", "ours", "strips")


def peer() -> Any:
    """Return a freshly initialised `diffusers.AutoencoderKL` of the published shape."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    widths = (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    ).eval()


def ours(theirs: Any) -> Any:
    """Return our codec of the peer's weights."""
    from sfumato.interop.diffusers.kl import LAYOUT
    from sfumato.interop.links import read

    codec = LAYOUT.config(dict(theirs.config)).build().eval()
    codec.load_state_dict(read(LAYOUT.links(codec), theirs.state_dict())[0], assign=True)
    return codec


@torch.no_grad()
def peak(mode: str, size: int, dtype: torch.dtype) -> float:
    """Return how many MiB one decode takes at its peak, beside what this process had before."""
    from sfumato.codecs import Strips

    theirs = peer().to(dtype)
    codec = ours(theirs)
    run = {
        "diffusers": lambda z: theirs.decode(z / 0.18215).sample,
        "ours": codec.decode,
        "strips": Strips(codec, 64).decode,
    }[mode]
    run(torch.randn(1, 4, 4, 4, dtype=dtype))
    z = torch.randn(1, 4, size // 8, size // 8, dtype=dtype)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: making the weights had one too
    before = _resident("VmRSS")
    run(z)
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """Return a size of this process from Linux' account of it, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


@torch.no_grad()
def main() -> None:
    """Print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="pixels on a side of the timed decode")
    parser.add_argument("--memory", type=int, default=512, help="pixels on a side of the decode whose memory is taken")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default=None, help="write the rows to this file")
    parser.add_argument("--peak", choices=MODES, default=None, help=argparse.SUPPRESS)
    k = parser.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, k.dtype)
    if k.peak:
        print(json.dumps(peak(k.peak, k.memory, dtype)))
        return
    if k.memory:
        for mode in MODES:
            command = [sys.executable, __file__, "--peak", mode, "--memory", str(k.memory), "--dtype", k.dtype]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(f"peak memory of a {k.memory}x{k.memory} decode, {k.dtype}, {mode}: {float(out):.0f} MiB", flush=True)
    if k.size:
        from sfumato.codecs import Strips

        theirs = peer().to(dtype)
        codec = ours(theirs).to(memory_format=torch.channels_last)  # spares a reordering of the weights a call
        z = torch.randn(1, 4, k.size // 8, k.size // 8, dtype=dtype)
        expected = lambda: theirs.decode(z / codec.config.scale).sample
        for name, decode in (("at once", codec.decode), ("strips of 64", Strips(codec, 64).decode)):
            compare(
                f"KL decode {k.size}x{k.size} {k.dtype}, {name}",
                peer=expected,
                ours=lambda decode=decode: decode(z),
                floor=1.0,
                goal=1.1,
                rounds=k.rounds,
                error=lambda decode=decode: _error(decode(z), expected()),
                bar=1e-5 if dtype == torch.float32 else 2e-2,
            )
        finish()


def _error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.float() - expected.float()).norm() / expected.float().norm())


if __name__ == "__main__":
    main()
