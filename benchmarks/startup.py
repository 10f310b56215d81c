"""P14, P15 and P16: what it costs to import, to ask for help, and to build and load a model, against diffusers.

Each measurement is a process of its own: processor time (user and system) and the most memory it held.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

ROUNDS = 3
SOURCE = str(Path(__file__).resolve().parents[1] / "src")

# Runs argv[2:] in a child, and writes "cpu seconds, peak MiB" of it to argv[1]. Small, so that its own size does not
# count: a child begins as a copy of its parent.
PROBE = """
import os, resource, sys
pid = os.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
code = os.waitpid(pid, 0)[1]
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], "w").write(f"{used.ru_utime + used.ru_stime} {used.ru_maxrss / 1024} {code}")
"""

IMPORTS = {
    "python": "pass",
    "torch": "import torch",
    "sfumato": "import sfumato",
    "sfumato + class": "import torch\nfrom sfumato.nets import UNet",
    "sfumato + pipeline": "import torch\nfrom sfumato import Pipeline",
    "diffusers": "import diffusers",
    "diffusers + class": "import torch\nfrom diffusers import UNet2DModel",
    "diffusers + pipeline": "import torch\nfrom diffusers import DDPMPipeline",
    "sfumato --help": "from sfumato.cli import main; main(['--help'])",
    "sfumato train --help": "from sfumato.cli import main; main(['train', '--help'])",
    "diffusers-cli --help": "import sys; sys.argv = ['diffusers-cli', '--help']\n"
    "from diffusers.commands.diffusers_cli import main; main()",
}


def probe(code: str) -> tuple[float, float]:
    """Return (cpu seconds, peak MiB) of a fresh Python that runs `code`."""
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "used"
        env = os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-S", "-E", "-c", PROBE, str(target), "-c", code]
        subprocess.run(words, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds, memory, status = (float(v) for v in target.read_text().split())
    if status:
        raise SystemExit(f"this failed: {code}")
    return seconds, memory


def row(name: str, peer: float, ours: float, floor: float, goal: float) -> None:
    """Record one ratio; there is no output to compare, so no error."""
    harness.record(
        {
            "name": name,
            "peer_s": peer,
            "ours_s": ours,
            "ratio": peer / ours,
            "floor": floor,
            "goal": goal,
            "error": None,
            "bar": 0.0,
            "rounds": ROUNDS,
        }
    )


def imports() -> None:
    """Measure the fresh processes, interleaved."""
    used: dict[str, list[tuple[float, float]]] = {name: [] for name in IMPORTS}
    for code in IMPORTS.values():
        probe(code)  # fills the disk cache and the compiled files
    for _ in range(ROUNDS):
        for name, code in IMPORTS.items():
            used[name].append(probe(code))
    s = {name: statistics.median(v[0] for v in values) for name, values in used.items()}
    m = {name: statistics.median(v[1] for v in values) for name, values in used.items()}
    for name in IMPORTS:
        print(f"{name:<24} {1e3 * s[name]:8.1f} ms  {m[name]:7.1f} MiB")
    row("P14 import, against diffusers", s["diffusers"], s["sfumato"], 20, 80)
    row("P14 import, within 40 ms", 0.040, s["sfumato"], 0.8, 1)
    row("P14 first network class, against diffusers", s["diffusers + class"], s["sfumato + class"], 1.6, 2)
    row("P14 first network class, within torch + 60 ms", s["torch"] + 0.060, s["sfumato + class"], 0.95, 1)
    row("P14 pipeline class, against diffusers", s["diffusers + pipeline"], s["sfumato + pipeline"], 2.6, 3.3)
    row("P15 --help, against diffusers-cli", s["diffusers-cli --help"], s["sfumato --help"], 44, 55)
    row("P15 --help, within 60 ms", 0.060, s["sfumato --help"], 0.8, 1)
    row("P15 train --help, within 60 ms", 0.060, s["sfumato train --help"], 0.8, 1)
    row("P15 --help memory (MiB), against diffusers-cli", m["diffusers-cli --help"], m["sfumato --help"], 12, 15)
    row("P15 --help memory (MiB), within 20", 20, m["sfumato --help"], 0.8, 1)
    row("P16 pipeline memory (MiB), against diffusers", m["diffusers + pipeline"], m["sfumato + pipeline"], 1.5, 1.85)
    row("P16 pipeline memory (MiB), within torch + 8", m["torch"] + 8, m["sfumato + pipeline"], 0.97, 1)


def models() -> None:
    """Compare building and loading a network of 0.1 G parameters with what a script does: initialise, read, copy."""
    import torch
    from safetensors.torch import load_file

    import sfumato as sf
    from sfumato.nets import UNetConfig
    from sfumato.pipeline.folder import empty

    torch.set_num_threads(1)
    config = UNetConfig(channels=128, multipliers=(1, 2, 3, 4), layers=3, attention=(1, 2, 3))
    with tempfile.TemporaryDirectory() as place:
        net = config.build()
        folder = sf.Pipeline(
            denoiser=sf.Preconditioned(net, sf.VPCosine(), sf.V()), shape=(3, 32, 32), modality=sf.pipeline.Pixels()
        ).save(Path(place) / "model")

        def script() -> torch.nn.Module:
            made = config.build()
            made.load_state_dict(load_file(folder / "model.safetensors"))
            return made

        def difference() -> float:
            loaded = sf.load(folder).denoiser.net.state_dict()
            return max(float((loaded[name] - value).abs().max()) for name, value in net.state_dict().items())

        build = harness.compare(
            "P16 build without initialising",
            peer=config.build,
            ours=lambda: empty(config, torch.float32),
            floor=10,
            goal=13,
            rounds=3,
        )
        row("P16 build, within 0.3 s", 0.3, build["ours_s"], 0.8, 1)
        load = harness.compare(
            "P16 load", peer=script, ours=lambda: sf.load(folder), floor=5, goal=8, rounds=3, error=difference, bar=0.0
        )
        row("P16 load, within build + 0.1 s", build["ours_s"] + 0.1, load["ours_s"], 0.8, 1)


if __name__ == "__main__":
    imports()
    models()
    harness.finish()
