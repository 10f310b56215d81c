"""Loading networks of released sizes: ours against diffusers', time and peak memory.

    python -m benchmarks.loading [NAME ...] [--folder DIR] [--rounds 3]

- `shards`: SDXL's U-Net, 2,567,463,684 random numbers in float16, 5.1 GB, in shards with an index.
- `average`: Stable Diffusion 1.5's U-Net in one file with the average of its training beside it (`model_ema.*`), both
  in float16, 3.4 GB: as it is stored, and cast to bfloat16 and to float32. A pipeline carries the average along, so
  that the file can be written back.

Each is written once to a folder of DIR, which is deleted at the end. Each load is a process of its own, after its
imports: until the network is there, and until every page of its weights has been read, since ours stay mapped. Time is
CPU time of the process; peak memory is the largest resident size less that before the load, pages of mapped files
among it, over the size of the network's weights as they are loaded (Linux). Theirs with accelerate, its fast way.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import finish, record

MODES = ("diffusers", "ours")
# name: (what is loaded, the dtypes that it is loaded in)
MODELS = {
    "shards": ("SDXL's U-Net", ("float16",)),
    "average": ("1.5's U-Net beside its average", ("float16", "bfloat16", "float32")),
}
FILE = "model.safetensors"


def filled(net: nn.Module) -> nn.Module:
    """Return `net` with random weights, different in each tensor."""
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).half().mul_(0.02)
    with torch.no_grad():
        for i, tensor in enumerate(net.state_dict().values()):
            flat = tensor.view(-1)
            for at in range(0, len(flat), len(block)):
                part = flat[at : at + len(block)]
                part.copy_(block.roll(i)[: len(part)])
    return net


def make_shards(folder: Path) -> None:
    """Write SDXL's U-Net as diffusers does."""
    from sfumato.interop.diffusers.writing import write_network
    from sfumato.nets.latent_unet import sdxl
    from sfumato.pipeline.folder import empty

    net = filled(empty(sdxl(), torch.float16).to_empty(device="cpu"))
    write_network(net, folder, shard=2_000_000_000, sample_size=128)


def make_average(folder: Path) -> None:
    """Write Stable Diffusion 1.5's U-Net and an average of it in one file, and diffusers' configuration."""
    from diffusers import UNet2DConditionModel

    from sfumato.core.weights import write_weights
    from sfumato.interop.links import write
    from sfumato.interop.single.families import FAMILIES
    from sfumato.nets.latent_unet import sd1
    from sfumato.pipeline.folder import empty

    net = filled(empty(sd1(), torch.float16).to_empty(device="cpu"))
    family = FAMILIES["sd1"]
    own = write(family.links(net, family.prefix), net.state_dict())
    average: Mapping[str, Tensor] = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": tensor + 0.01 for name, tensor in own.items()
    }
    folder.mkdir()
    write_weights(folder / FILE, {**own, **average, "model_ema.decay": torch.tensor(0.9999)}, {"format": "pt"})
    with torch.device("meta"):
        UNet2DConditionModel(sample_size=64, cross_attention_dim=768).save_config(str(folder))


def loader(name: str, mode: str, folder: str, dtype: torch.dtype) -> Callable[[], nn.Module]:
    """Return what loads a model, after the imports that it needs."""
    if mode == "diffusers":
        from diffusers import UNet2DConditionModel

        UNet: Any = UNet2DConditionModel
        if name == "average":
            file, given = f"{folder}/{FILE}", {"config": folder, "local_files_only": True}
            return lambda: UNet.from_single_file(file, torch_dtype=dtype, low_cpu_mem_usage=True, **given)
        return lambda: UNet.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=True)
    if name == "average":
        from sfumato.interop.single.reading import read_single
        from sfumato.pipeline import Pipeline

        kept: list[Pipeline] = []  # with what it carries along

        def load_file() -> nn.Module:
            kept.append(read_single(Path(folder) / FILE, dtype=dtype))
            return kept[-1].denoiser.net

        return load_file
    from sfumato.interop.diffusers.folder import layout, read_network

    layout("UNet2DConditionModel")
    return lambda: read_network(Path(folder), dtype=dtype)


def peak() -> int:
    """Return this process's greatest resident size since it was reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10


def child(name: str, mode: str, folder: str, dtype: str) -> dict[str, Any]:
    """Load in this process; return seconds until it is there and until all is read, memory, and a few sums."""
    torch.set_num_threads(1)
    load = loader(name, mode, folder, getattr(torch, dtype))
    Path("/proc/self/clear_refs").write_text("5")
    before, start, wall = peak(), time.process_time(), time.perf_counter()
    net = load()
    there = time.process_time() - start
    held = net.state_dict().values()
    pages = sum(int(t.view(-1).view(torch.int16)[:: 4096 // t.element_size()].sum()) for t in held)
    read = time.process_time() - start
    return {
        "there": there,
        "read": read,
        "wall": time.perf_counter() - wall,
        "memory": (peak() - before) / sum(t.nbytes for t in held),
        "pages": pages,
    }


def compare(name: str, folder: Path, rounds: int) -> None:
    """Load one model in turns, in each of its dtypes; record times and memory."""
    title, dtypes = MODELS[name]
    for dtype in dtypes:
        runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
        for _ in range(rounds + 1):  # the first of each warms the disk's cache, and is not counted
            for mode in MODES:
                command = [sys.executable, __file__, "--child", name, mode, str(folder), dtype]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[mode].append(json.loads(done.stdout.splitlines()[-1]))
        median = {
            mode: {key: statistics.median(r[key] for r in held[1:]) for key in held[0]} for mode, held in runs.items()
        }
        same = 0.0 if median["ours"]["pages"] == median["diffusers"]["pages"] else 1.0
        for key, said in (("there", "until it is there"), ("read", "until all of it is read")):
            peer, ours = median["diffusers"][key], median["ours"][key]
            row = {"name": f"loading {title}, {dtype}, {said}", "peer_s": peer, "ours_s": ours, "ratio": peer / ours}
            record(row | {"floor": 1.0, "goal": 1.0, "error": same, "bar": 0.0})
        memory = {mode: median[mode]["memory"] for mode in MODES}
        print(f"peak memory over the weights: diffusers {memory['diffusers']:.3f}, ours {memory['ours']:.3f}")
        row = {"name": f"loading {title}, {dtype}, 1.2 over ours", "peer_s": 1.2, "ours_s": memory["ours"]}
        record(row | {"ratio": 1.2 / memory["ours"], "floor": 1.0, "goal": 1.0, "error": None, "bar": 0.0})


def main() -> None:
    """Write the models, load them in turns, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--folder", default=None, help="where there are 6 GB (the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default=None)
    parser.add_argument("--child", nargs=4, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(*args.child)))
        return
    if wrong := [name for name in args.names if name not in MODELS]:
        parser.error(f"no model {wrong[0]!r}: {', '.join(MODELS)}")
    scratch = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        for name in args.names or MODELS:
            {"shards": make_shards, "average": make_average}[name](scratch / name)
            compare(name, scratch / name, args.rounds)
            shutil.rmtree(scratch / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    finish()


if __name__ == "__main__":
    main()
