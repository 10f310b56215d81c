"""P4, P6, H1 to H4: guided steps of released sizes, decoding, tiny pipelines; against diffusers on the same weights.

On the CPU one thread and its clock: float32 and, where the CPU computes in it, bf16 (`--dtype` asks for others; what a
CPU emulates takes diffusers up to half an hour a run), ours as a pipeline runs it (`--unpacked`: with the memory saver
of that name too), and diffusers in channels last where that is its best. With a GPU also the same in bf16 there, by
its events: milliseconds, pictures a second, the share of the measured peak of a matrix product, peak memory.

    python benchmarks/sampling.py [NAME ...] [--full] [--compile [alone]] [--unpacked] [--rounds 3] [--dtype bfloat16]

`--full` adds DiT-XL/2, SDXL and SD3 medium: minutes a step and up to 20 GB; with `--dtype bfloat16` half of that, and
outputs are compared with the peer's, not with float32. `--compile` adds both through `torch.compile`; `--compile alone`
leaves out the rest, and with it packed copies: SDXL in float32 takes 12 GB then. `--rounds 0` counts the first run.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from harness import finish, record
from sampling_models import Model, dit_s, dit_xl, sd3, sd15, sdxl
from torch import Tensor

import sfumato as sf
from sfumato.nets.blocks.wide import emulated, native

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# name: (model, batch, goal in float32, goal in bf16, goal of bf16 over the peer's float32)
STEPS = {
    "dit_s": (dit_s, 8, 1.27, 1.27, 2.3),
    "sd15": (sd15, 1, 1.0, 1.25, 2.0),
    "dit_xl": (dit_xl, 2, 1.27, 1.27, 2.3),
    "sdxl": (sdxl, 1, 1.0, 1.25, 2.0),
    "sd3": (sd3, 1, 1.0, 1.25, 2.0),
}
FULL = ("dit_xl", "sdxl", "sd3")
LARGE = ("SDXL U-Net", "SD3 medium")
BF16 = 5e-2  # between two networks in bf16, each as far as 3e-2 from float32
# a GPU: name: (batch, goal over eager, goal over compiled)
GPU = {
    "dit_xl": ((1, 6.0, 1.5), (32, 1.6, 1.15)),
    "sd15": ((1, 2.5, 1.4),),
    "sdxl": ((1, 2.0, 1.25),),
    "sd3": ((1, 1.8, 1.2),),
}
STEPS_OF_A_PICTURE = 50
Runs = dict[str, Callable[[], Tensor]]


def distance(got: Tensor, expected: Tensor) -> float:
    """Return |got - expected| / |expected|."""
    return float((got.float() - expected.float()).norm() / expected.float().norm())


def seconds(runs: Runs, rounds: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the median processor time of each, round by round, and the outputs of a first run, which is not counted
    unless there are no more.
    """
    outs: dict[str, Tensor] = {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + rounds):
        for name, run in runs.items():
            start = time.process_time()
            out = run()
            times[name].append(time.process_time() - start)
            outs.setdefault(name, out)
    return {name: statistics.median(values[min(rounds, 1) :]) for name, values in times.items()}, outs


def row(name: str, peer: float, ours: float, goal: float, error: float, bar: float, floor: float = 1.0) -> None:
    """Record a ratio."""
    told = {"name": name, "peer_s": peer, "ours_s": ours, "ratio": peer / ours}
    record({**told, "floor": floor, "goal": goal, "error": error, "bar": bar})


def steps(model: Model, batch: int, goals: tuple[float, float, float], k: argparse.Namespace) -> None:
    """A guided step on the CPU in both dtypes: ours as it comes and unpacked, theirs by default and at its best."""
    alone = model.name.startswith(LARGE) and "float32" not in k.dtype
    theirs = model.theirs(DTYPES[k.dtype[0]] if alone else torch.float32)
    exact = None if alone else model.peer(theirs, batch)()
    default: float | None = None
    for name in k.dtype:
        half = name != "float32"
        theirs = theirs.to(DTYPES[name])
        took, outs = seconds(contenders(model, theirs, batch, k), k.rounds)
        # in bf16 ours may be no further from float32 than theirs, whose own error varies by a part of itself
        peer = outs["peer compiled" if k.compile == "alone" else "peer"]
        bar = BF16 if exact is None else 1.1 * distance(peer, exact) if half else 1e-5
        target = peer if exact is None else exact
        title = f"{model.name} guided, batch {batch}, {name}"
        for key, label in (("ours", title), ("unpacked", f"{title}, unpacked")):
            if key not in took:
                continue
            error = distance(outs[key], target)
            row(label, took["peer"], took[key], goals[half], error, bar)
            if "best" in took:
                row(f"{label}, its channels last", took["best"], took[key], 1.0, error, bar)
            if half and default is not None:
                row(f"{label} over its float32", default, took[key], goals[2], error, bar)
        if "ours compiled" in took:
            error = distance(outs["ours compiled"], target)
            row(f"{title}, both compiled", took["peer compiled"], took["ours compiled"], 1.0, error, bar)
        default = took.get("peer")


def contenders(model: Model, theirs: torch.nn.Module, batch: int, k: argparse.Namespace) -> Runs:
    """Return the steps to compare, all on the memory of `theirs` but those that need an order of their own."""
    with torch.no_grad():
        net, last = native(model.ours(theirs)), torch.channels_last
    if k.compile == "alone":
        return compiled(model, theirs, net, batch)
    runs = {"peer": model.peer(theirs, batch), "ours": model.step(net, batch)}
    if k.unpacked:
        runs["unpacked"] = model.step(net, batch, memory=("unpacked",))
    # diffusers is faster in channels last for U-Nets in bf16; a third copy of large weights is not made
    half = next(theirs.parameters()).dtype != torch.float32
    if "U-Net" in model.name and half and not model.name.startswith(LARGE):
        runs["best"] = model.peer(copy.deepcopy(theirs).to(memory_format=last), batch, form=last)
    return runs | compiled(model, theirs, net, batch) if k.compile else runs


def compiled(model: Model, theirs: torch.nn.Module, net: torch.nn.Module, batch: int, mode: str | None = None) -> Runs:
    """Return both steps through torch.compile: their whole forward, our trunk."""
    device = str(next(net.parameters()).device)
    own = copy.copy(net)  # shares all tensors
    own.__dict__["trunk"] = torch.compile(net.trunk, mode=mode)  # and so it is not packed
    graph = torch.compile(theirs, mode=mode)
    return {
        "peer compiled": model.peer(graph, batch, device),
        "ours compiled": model.step(own, batch, device),
    }


def decode(k: argparse.Namespace) -> None:
    """Stable Diffusion's decoder, a picture of 512 x 512; ours with its weights in channels last."""
    for name in k.dtype:
        runs = decoders(DTYPES[name], graphs=bool(k.compile))
        if k.compile == "alone":
            runs = {key: run for key, run in runs.items() if key.endswith("compiled")}
        took, outs = seconds(runs, k.rounds)
        bar = 1e-5 if name == "float32" else 2e-2
        if "ours" in took:
            error = distance(outs["ours"], outs["peer"])
            row(f"KL decode, 512x512, {name}", took["peer"], took["ours"], 1.1, error, bar)
            row(f"KL decode, 512x512, {name}, its channels last", took["best"], took["ours"], 1.0, error, bar)
        if k.compile:
            error = distance(outs["ours compiled"], outs["peer compiled"])
            peer = min(took["peer compiled"], took["best compiled"])
            row(f"KL decode, 512x512, {name}, both compiled", peer, took["ours compiled"], 1.0, error, bar)


def decoders(dtype: torch.dtype, *, graphs: bool = False) -> Runs:
    """Return both decoders on the same weights and the same latent."""
    from codec import ours, peer

    theirs = peer().to(dtype)
    codec = ours(theirs).to(memory_format=torch.channels_last)
    with torch.no_grad():
        codec = native(codec)
    z = sf.core.Noise([0]).normal((1, 4, 64, 64), "z").to(dtype)
    best, last = copy.deepcopy(theirs).to(memory_format=torch.channels_last), z.to(memory_format=torch.channels_last)
    runs = {
        "peer": lambda: theirs.decode(z / codec.config.scale).sample,
        "best": lambda: best.decode(last / codec.config.scale).sample,
        "ours": lambda: codec.decode(z),
    }
    if graphs:
        made = {name: torch.compile(part.decode) for name, part in (("peer", theirs), ("best", best), ("ours", codec))}
        runs |= {
            "peer compiled": lambda: made["peer"](z / codec.config.scale).sample,
            "best compiled": lambda: made["best"](last / codec.config.scale).sample,
            "ours compiled": lambda: made["ours"](z),
        }
    return {name: torch.no_grad()(run) for name, run in runs.items()}


def tiny(k: argparse.Namespace) -> None:
    """Whole pipelines of tiny networks from prompt to picture, 20 steps: what is not arithmetic."""
    for kind in ("sd", "xl", "sd3"):
        took, outs = seconds(pipelines(kind), k.rounds)
        error = float((((outs["ours"] + 1) / 2).clamp(0, 1) - outs["peer"]).abs().max())
        row(f"tiny {kind} pipeline, 20 steps", took["peer"], took["ours"], 1.0, error, 2 / 255)


def pipelines(kind: str) -> Runs:
    """Return both pipelines of one tiny folder, on the same noise and times."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "interop"))
    import tiny_folders
    from diffusers import DDIMScheduler

    theirs = getattr(tiny_folders, kind)()
    if kind != "sd3":
        theirs.scheduler = DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        pipe = sf.load(folder)
    x = tiny_folders.start((1, *pipe.shape))
    told = {"negative_prompt": "ugly", "guidance_scale": 5.0, "height": 16, "width": 16, "output_type": "pt"}
    asked = {"negative": "ugly", "guidance": 5.0, "size": (16, 16), "n": 1, "start": x}
    asked |= {"steps": 20, "solver": "euler"} if kind == "sd3" else {"solver": "ddim"}
    if kind != "sd3":
        asked["grid"] = tiny_folders.times(theirs.scheduler, 20)
    return {
        "peer": lambda: theirs("a red cat", latents=x.clone(), num_inference_steps=20, **told).images,
        "ours": lambda: pipe("a red cat", **asked).pixels,
    }


def events(run: Callable[[], Tensor], warm: int = 5, timed: int = 20) -> float:
    """Return the median seconds of a run on the GPU, by its own events."""
    for _ in range(warm):
        run()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(timed)]
    for start, end in marks:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1e3


def gpu(model: Model, batch: int, over_eager: float, over_compiled: float, peak: float) -> None:
    """A guided step in bf16 on the GPU, eager and compiled into CUDA graphs; `peak`: its matrix product, FLOP/s."""
    from torch.utils.flop_counter import FlopCounterMode

    theirs = model.theirs()
    form = torch.channels_last if "U-Net" in model.name else torch.contiguous_format
    exact = model.peer(theirs.to("cuda"), batch, "cuda")()
    theirs = theirs.to(torch.bfloat16)
    net = model.ours(theirs)
    runs = {"peer": model.peer(theirs, batch, "cuda"), "ours": model.step(net, batch, "cuda")}
    bar, error = (distance(runs[key](), exact) for key in ("peer", "ours"))
    with FlopCounterMode(display=False) as counter:
        runs["ours"]()
    best = copy.deepcopy(theirs).to(memory_format=form)
    runs["best"] = model.peer(best, batch, "cuda", form=form)
    runs |= compiled(model, best, net, batch, mode="reduce-overhead")
    took, memory = {}, {}
    for key, run in runs.items():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        took[key] = events(run)
        memory[key] = torch.cuda.max_memory_allocated() / 2**20
        rate = batch / (STEPS_OF_A_PICTURE * took[key])
        share = counter.get_total_flops() / took[key] / peak
        told = (
            f"{took[key] * 1e3:.2f} ms a step, {rate:.3g} pictures/s of {STEPS_OF_A_PICTURE} steps, {share:.0%} of peak"
        )
        print(f"  {model.name}, batch {batch}, {key}: {told}, {memory[key]:.0f} MiB", flush=True)
    title = f"{model.name} guided, batch {batch}, GPU bf16"
    row(title, took["peer"], took["ours"], 1.0, error, bar)
    row(f"{title}, its channels last", took["best"], took["ours"], 1.0, error, bar)
    row(f"{title}, both compiled", took["peer compiled"], took["ours compiled"], over_compiled, error, bar)
    row(f"{title}, ours compiled over its eager", took["peer"], took["ours compiled"], over_eager, error, bar)


def matrix_peak() -> float:
    """Return FLOP/s of the GPU's bf16 product of two matrices of 8192."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / events(lambda: a @ a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = (*STEPS, "decode", "tiny")
    parser.add_argument("names", nargs="*", help=f"rows to run, of {', '.join(choices)}")
    parser.add_argument("--full", action="store_true", help="DiT-XL/2, SDXL and SD3 medium too")
    parser.add_argument(
        "--compile",
        nargs="?",
        const="too",
        choices=("too", "alone"),
        help="through torch.compile too, or alone",
    )
    parser.add_argument("--unpacked", action="store_true", help="ours without packing too")
    parser.add_argument("--side", type=int, default=0, help="of the latents of SDXL and SD3 medium (128)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, of which the median counts (3)")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=None)
    parser.add_argument("--json", default=None, help="write the rows to this file")
    k = parser.parse_args()
    if wrong := [name for name in k.names if name not in choices]:
        parser.error(f"no row {wrong[0]!r}: {', '.join(choices)}")
    if k.dtype is None:
        k.dtype = ["float32"] if emulated(torch.bfloat16) else ["float32", "bfloat16"]
        if len(k.dtype) == 1:
            print("  this CPU has no arithmetic in bfloat16: its rows are left out (--dtype bfloat16 for them)")
    names = k.names or [name for name in choices if k.full or name not in FULL]
    torch.set_num_threads(1)
    for name in names:
        if name in STEPS:
            make, batch, *goals = STEPS[name]
            model = make()
            if k.side and model.name in LARGE:
                model = replace(model, name=f"{model.name} at {k.side}", x=(model.x[0], k.side, k.side))
            steps(model, batch, tuple(goals), k)
        else:
            {"decode": decode, "tiny": tiny}[name](k)
    if torch.cuda.is_available():
        peak = matrix_peak()
        print(f"the GPU multiplies matrices at {peak / 1e12:.0f} TFLOP/s (bf16)")
        for name in (n for n in GPU if n in k.names or not k.names):
            for batch, over_eager, over_compiled in GPU[name]:
                gpu(STEPS[name][0](), batch, over_eager, over_compiled, peak)


if __name__ == "__main__":
    main()
    finish()
