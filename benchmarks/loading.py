"""Loading a U-Net of SDXL's size: ours against diffusers', time and peak memory.

    python -m benchmarks.loading [--folder DIR] [--rounds 3]

2,567,463,684 random numbers in float16, 5.1 GB, written once in shards by our writer to a folder of DIR, which is
deleted at the end. Each load is a process of its own, after its imports: until the network is there, and until every
page of its weights has been read, since ours stay mapped. Time is CPU time of the process; peak memory is the largest
resident size less that before the load, over the size of the weights (Linux). Theirs with accelerate, its fast way.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import finish, record

MODES = ("diffusers", "ours")


def make(folder: Path) -> int:
    """Write the model; return the size of its weights in bytes."""
    from sfumato.interop.diffusers.writing import write_network
    from sfumato.nets.latent_unet import sdxl
    from sfumato.pipeline.folder import empty

    net = empty(sdxl(), torch.float16).to_empty(device="cpu")
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).half().mul_(0.02)
    with torch.no_grad():
        for i, tensor in enumerate(net.state_dict().values()):
            flat = tensor.view(-1)
            for at in range(0, len(flat), len(block)):
                part = flat[at : at + len(block)]
                part.copy_(block.roll(i)[: len(part)])
    write_network(net, folder, shard=2_000_000_000, sample_size=128)
    return sum(t.numel() * t.element_size() for t in net.state_dict().values())


def peak() -> int:
    """Return this process's greatest resident size since it was reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10


def child(mode: str, folder: str) -> dict[str, Any]:
    """Load in this process; return seconds until it is there and until all is read, memory, and a few sums."""
    torch.set_num_threads(1)
    if mode == "diffusers":
        from diffusers import UNet2DConditionModel

        def load() -> torch.nn.Module:
            return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float16, low_cpu_mem_usage=True)
    else:
        from sfumato.interop.diffusers.folder import layout, read_network

        layout("UNet2DConditionModel")

        def load() -> torch.nn.Module:
            return read_network(Path(folder))

    Path("/proc/self/clear_refs").write_text("5")
    before, start, wall = peak(), time.process_time(), time.perf_counter()
    net = load()
    there = time.process_time() - start
    pages = sum(int(t.view(-1).view(torch.int16)[::2048].sum()) for t in net.state_dict().values())
    read = time.process_time() - start
    return {
        "there": there,
        "read": read,
        "wall": time.perf_counter() - wall,
        "bytes": peak() - before,
        "pages": pages,
        "count": sum(p.numel() for p in net.parameters()),
    }


def main() -> None:
    """Write the model, load it in turns, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=None, help="where there are 6 GB (the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default=None)
    parser.add_argument("--child", nargs=2, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(*args.child)))
        return
    scratch = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        size = make(scratch / "unet")
        runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
        for _ in range(args.rounds + 1):  # the first of each warms the disk's cache, and is not counted
            for mode in MODES:
                command = [sys.executable, __file__, "--child", mode, str(scratch / "unet")]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[mode].append(json.loads(done.stdout.splitlines()[-1]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    median = {
        mode: {key: statistics.median(r[key] for r in held[1:]) for key in held[0]} for mode, held in runs.items()
    }
    same = median["ours"]["pages"] == median["diffusers"]["pages"]
    for key, said in (("there", "until the network is there"), ("read", "until all of it is read")):
        peer, ours = median["diffusers"][key], median["ours"][key]
        row = {"name": f"loading SDXL's U-Net, {said}", "peer_s": peer, "ours_s": ours, "ratio": peer / ours}
        record(row | {"floor": 1.0, "goal": 1.0, "error": 0.0 if same else 1.0, "bar": 0.0})
    for mode in MODES:
        print(f"peak memory over the weights, {mode}: {median[mode]['bytes'] / size:.3f}")
    memory = {
        "name": "peak memory over the weights: 1.2 over ours",
        "peer_s": 1.2,
        "ours_s": median["ours"]["bytes"] / size,
    }
    record(
        memory | {"ratio": 1.2 * size / median["ours"]["bytes"], "floor": 1.0, "goal": 1.0, "error": None, "bar": 0.0}
    )
    finish()


if __name__ == "__main__":
    main()
