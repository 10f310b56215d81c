"""Put a trained text-to-image run and its judge into the package: float16 weights, the card, the hashes.

    python tools/ship.py RUN JUDGE_RUN --figures figures.json [--name tableau] [--replace]

RUN is a run of `sfumato train tableau` (or a folder that `Pipeline.save` wrote), JUDGE_RUN one of `tableau-clip` (or a
folder that `Judge.save` wrote), the figures what `sfumato evaluate RUN --json` printed. Refuses what is larger than the
package allows. A model that is there is replaced with `--replace` alone, when the new one is whole: the run may have
its codec, and the judge may be its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

import sfumato as sf
from sfumato import assets
from sfumato.codecs.folder import CONFIG
from sfumato.measure import load_judge
from sfumato.recipes import judge_of_run

MOST = 12_000_000  # bytes of a shipped model, all parts together


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("judge", type=Path)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--name", default="tableau")
    parser.add_argument("--replace", action="store_true", help="the model of that name")
    args = parser.parse_args()
    target = assets.HOME / args.name
    if target.exists() and not args.replace:
        raise SystemExit(f"{target} exists: replace it with --replace")
    pipe = sf.load(args.run)
    judge = judge_of_run(args.judge) if (args.judge / "checkpoints").is_dir() else load_judge(args.judge)
    figures = json.loads(args.figures.read_text(encoding="utf-8"))
    pipe.to(torch.float16)
    with tempfile.TemporaryDirectory(dir=assets.HOME) as scratch:
        folder = pipe.save(Path(scratch) / "model")
        judge.save(folder, torch.float16)
        if pipe.codec is not None:  # beside its weights, so that `load_codec` reads it too
            (folder / CONFIG).write_text(json.dumps(sf.to_config(pipe.codec.config), indent=1) + "\n", encoding="utf-8")
        (folder / "card.md").write_text(card(args.name, pipe, figures), encoding="utf-8")
        hashes = assets.seal(folder)
        size = sum((folder / name).stat().st_size for name in hashes)
        if size > MOST:
            raise SystemExit(f"{size:,} bytes in all, at most {MOST:,} may be shipped")
        if target.exists():
            shutil.rmtree(target)
        shutil.move(folder, target)
    print(f"{target}: {size:,} bytes in {len(hashes)} files")


def card(name: str, pipe: sf.Pipeline, figures: dict[str, Any]) -> str:
    """Return what a reader should know of the model, as Markdown."""
    count = sum(p.numel() for p in pipe.denoiser.net.parameters())
    codec = 0 if pipe.codec is None else sum(p.numel() for p in pipe.codec.parameters())
    rows = "".join(f"| {f['name']} {f['settings']} | {f['value']:.4g} | {f['n']} |\n" for f in figures["model"])
    return (
        f"# {name}\n\nA text-to-image model of the tableau world: pictures of 64 x 64 pixels with one to four painted "
        f"shapes, from English or Chinese captions.\n\n"
        f"- network and reader of words: {count:,} parameters; autoencoder: {codec:,}; float16 here, float32 in use\n"
        f"- trained on synthetic scenes alone; no picture or text of a person or a work is in the data\n"
        f"- for learning, demonstration and measurement of methods; it knows nothing else\n"
        f"- licence: that of the package\n- how it was trained: docs/models/{name}.md\n\n"
        f"| figure | value | samples |\n|---|---|---|\n{rows}"
    )


if __name__ == "__main__":
    main()
