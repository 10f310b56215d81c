"""`sfumato demo`: train on real digits, sample, measure, write a page with pictures and figures."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from dataclasses import replace
from typing import Any

import torch

from ..cli.progress import Progress
from ..core import InputError, Noise, Step, to_config
from ..data import Digits
from ..measure.classifier import Classifier, ClassifierConfig, fit_classifier
from ..pipeline import Output, Pipeline
from ..recipes import Recipe, train
from ..recipes import digits as digits_recipe
from ..train import Run, read_metrics
from . import figures
from .captions import Act, act, section, shipped
from .report import Page, render, results
from .scores import Data, score

CHUNK = 500  # samples at a time
STRIP = (1, 2, 4, 8)  # steps of the strip, before the default number


def recipe(steps: int, seed: int) -> Recipe:
    """Return the digits recipe at the demo's length; the first grid of samples comes after a few seconds."""
    base = digits_recipe()
    every = max(1, steps // 8)
    return replace(
        base, train=replace(base.train, steps=steps, seed=seed, sample_every=every, log_every=max(1, steps // 50))
    )


def run(args: Namespace) -> int:
    """Run the demo and return the exit code: 0 when every bar is reached, 1 when one is missed."""
    if args.samples < 200 or args.samples % 10:
        raise InputError(f"--samples {args.samples} must be a multiple of 10 and at least 200")
    if args.steps < 1:
        raise InputError(f"--steps {args.steps} must be at least 1")
    began = time.monotonic()
    chosen = recipe(args.steps, args.seed)
    folder = Run.create(args.out, "demo", to_config(chosen))
    _say(f"1/5  training a U-Net on {len(chosen.data)} scans; grids of samples appear in {folder.samples}")
    trainer, outcome = train(chosen, folder)
    trained = time.monotonic()
    with trainer.ema_weights() as denoiser:
        pipeline = chosen.pipeline(denoiser)
        pipeline.save(folder.path / "model")
        data = load()
        _say("2/5  training the classifier that reads the samples back")
        classifier = fit_classifier(data.train, data.train_y, ClassifierConfig(classes=10), seed=args.seed)
        read = 100 * classifier.accuracy(data.held_out, data.held_out_y)
        _say(f"     it reads {read:.1f} % of the held-out scans right")
        _say(f"3/5  drawing {args.samples} samples")
        samples = draw(pipeline, args.samples // 10)
        counts = (*STRIP, pipeline.defaults.steps)
        strip = [(f"{n} step{'s' * (n > 1)}", one_each(pipeline, n)) for n in counts]
    words = shipped()
    _say("4/5  asking the text-to-image model of the package" if words else "4/5  (no text-to-image model here)")
    second = None if words is None else act(words)
    _say("5/5  measuring")
    summary = report(
        folder, chosen, pipeline, samples, strip, data, classifier, began, trained, outcome.seconds, second
    )
    print(json.dumps(summary, indent=1) if args.json else _closing(summary))
    return 0 if summary["reached"] else 1


def load() -> Data:
    """Return the two parts of the scans."""
    parts = []
    for dataset in (Digits(), Digits(held_out=True)):
        batch = dataset.batch(range(len(dataset)), Noise(range(len(dataset))))
        parts += [batch.x0, batch.cond["y"]]
    return Data(train=parts[0], train_y=parts[1], held_out=parts[2], held_out_y=parts[3])


def draw(pipeline: Pipeline, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (samples, asked digits), digit by digit."""
    tensors: list[torch.Tensor] = []
    done, per_call = 0, CHUNK // 10
    with Progress("     drawing", 10 * each, quiet=0.0) as bar:
        while done < each:
            n = min(per_call, each - done)
            before = 10 * done

            def step(k: Step, _: torch.Tensor, n: int = n, before: int = before) -> None:
                bar.update(before + 10 * n * (k.i + 1) // k.n)

            out: Output = pipeline([str(d) for d in range(10)], n=n, seed=10 * done, callback=step)
            tensors.append(out.tensor.clamp(-1, 1).unflatten(0, (10, n)))
            done += n
    x = torch.cat(tensors, 1)
    return x.flatten(0, 1), torch.arange(10).repeat_interleave(each)


def one_each(pipeline: Pipeline, steps: int) -> torch.Tensor:
    """Return one sample of each digit with the same ten seeds whatever the number of steps."""
    return pipeline([str(d) for d in range(10)], n=1, seed=0, steps=steps).tensor.clamp(-1, 1)


def report(
    folder: Run,
    chosen: Recipe,
    pipeline: Pipeline,
    samples: tuple[torch.Tensor, torch.Tensor],
    strip: list[tuple[str, torch.Tensor]],
    data: Data,
    classifier: Classifier,
    began: float,
    trained: float,
    training_seconds: float,
    second: Act | None,
) -> dict[str, Any]:
    """Measure, write report.html and results.json into the run's folder, and return the summary."""
    x, asked = samples
    rows, near = score(x, asked, data, classifier)
    each = len(x) // 10
    shown = x.unflatten(0, (10, each))[:, :10].transpose(0, 1).flatten(0, 1)  # a column a digit
    model = folder.path / "model"
    parameters = sum(p.numel() for p in pipeline.denoiser.net.parameters())
    settings = json.dumps(to_config(chosen), indent=1)
    page = Page(
        facts={
            "parameters": f"{parameters:,}",
            "training": f"{chosen.train.steps} steps, {training_seconds:.0f} s",
            "samples measured": f"{len(x):,}",
            "sampler": f"{type(pipeline.defaults.solver).__name__}, {pipeline.defaults.steps} steps",
            "guidance": f"{pipeline.defaults.guidance:g}",
            "in all": f"{time.monotonic() - began:.0f} s",
        },
        grid=figures.png(figures.sheet(shown, 10)),
        strip=figures.png(figures.labelled(strip, 10)),
        loss=figures.loss_curve(read_metrics(folder)),
        neighbours=figures.png(figures.labelled(figures.neighbours(shown[:10], data.train, 3), 10)),
        distances=figures.distance_curves(near),
        rows=rows,
        memorisation=near,
        commands=[f"sfumato sample {model} 7 -n 16", f"sfumato inspect {model}", f"sfumato train {folder.path}"],
        settings=settings,
        second=section(second),
    )
    path = folder.path / "report.html"
    path.write_text(render(page), encoding="utf-8")
    figures.sheet(shown, 10).save(folder.path / "samples.png")
    reached = all(r.passed is not False for r in rows)
    summary = results(rows, near) | {
        "reached": reached,
        "report": str(path),
        "model": str(model),
        "seconds": round(time.monotonic() - began, 1),
        "training_seconds": round(trained - began, 1),
        "captions": None if second is None else second.summary(),
    }
    (folder.path / "results.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return summary


def _closing(summary: dict[str, Any]) -> str:
    lines = [
        f"  {r['name']:<28}{r['model']:>9.4g}   perfect {r['perfect']:<9.4g} trivial {r['trivial']:<9.4g}"
        + (f" {'reached' if r['passed'] else 'MISSED'} ({r['bar']})" if r["bar"] else "")
        for r in summary["rows"]
    ]
    told = summary["captions"] or {"prompts": {}}
    if told["prompts"]:
        lines.append("second act: the text-to-image model that ships, still poor at shapes (docs/models/tableau.md)")
    lines += [f"  {score['right']} of {score['of']} right: {prompt}" for prompt, score in told["prompts"].items()]
    return "\n".join([*lines, f"done in {summary['seconds']:.0f} s", f"report: {summary['report']}"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
