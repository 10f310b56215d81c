"""P12 and P13: the Frechet distance of 2,048 features, and the statistics of 10,000 rows of them.

P12 compares the whole distance from given moments; the reference's Cholesky factor is kept between calls, as it is
between the evaluations of one training run, and the row "first call" counts it too. P13 compares the gathering of
mean and covariance: torchmetrics' running sums at the batch of 50 that its users take from pytorch-fid, and `np.cov`,
which needs all rows in memory. The peers' own code runs; the packages that they import for their networks are not
needed for that and are replaced by empty modules.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings

import numpy as np
import torch
from harness import compare, finish
from threadpoolctl import threadpool_limits

from sfumato.measure import FeatureSet, Moments, Statistics, frechet_distance

D, ROWS, BATCH = 2048, 10_000, 50
torch.set_num_threads(1)
threadpool_limits(1)  # numpy's and scipy's too
warnings.filterwarnings("ignore", category=DeprecationWarning)


def pytorch_fid():
    """Return pytorch-fid's distance; its module wants torchvision and its Inception network, which play no part."""
    absent = {"torchvision": [], "torchvision.transforms": [], "pytorch_fid.inception": ["InceptionV3"]}
    before = {name: sys.modules.get(name) for name in absent}
    for name, attributes in absent.items():
        sys.modules[name] = types.ModuleType(name)
        for attribute in attributes:
            setattr(sys.modules[name], attribute, types.SimpleNamespace(BLOCK_INDEX_BY_DIM={2048: 3}))
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    try:
        return importlib.import_module("pytorch_fid.fid_score").calculate_frechet_distance
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def rows(seed: int, n: int = ROWS) -> torch.Tensor:
    """Return rectified features with a decaying spectrum, float32, as a network's last layer gives them."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(D, D, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 0.1, D)[:, None] / D**0.5
    return torch.relu(torch.randn(n, D, generator=g) @ mix + 0.3 + 0.02 * seed)


def feature_set(moments: Moments, hash: str) -> FeatureSet:
    return FeatureSet(n=moments.n, network="bench", resize="none", hash=hash, kept=moments)


def moments(x: torch.Tensor, **options) -> Moments:
    statistics = Statistics(**options)
    for batch in x.split(BATCH):
        statistics.add(batch)
    return statistics.moments()


def distance():
    """P12."""
    from torchmetrics.image.fid import _compute_fid

    a, b = moments(rows(2)), moments(rows(1))
    reference = feature_set(b, "r")
    score = pytorch_fid()
    arrays = [t.numpy() for t in (a.mean, a.covariance, b.mean, b.covariance)]
    kept: dict[str, float] = {}

    def ours():
        kept["ours"] = frechet_distance(feature_set(a, "s"), reference).value

    def first():
        kept["ours"] = frechet_distance(feature_set(a, "s"), feature_set(b, "r")).value

    def scipy_route():
        kept["peer"] = float(score(*arrays))

    def eigvals_route():
        kept["peer"] = float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance))

    def error():
        return abs(kept["ours"] - kept["peer"]) / abs(kept["peer"])

    compare(
        "P12 Frechet 2048-d, torchmetrics", peer=eigvals_route, ours=ours, floor=2.0, goal=2.5, error=error, bar=1e-6
    )
    compare("P12 the same, first call", peer=eigvals_route, ours=first, floor=2.0, goal=2.5, error=error, bar=1e-6)
    compare(
        "P12 Frechet 2048-d, pytorch-fid", peer=scipy_route, ours=ours, floor=7, goal=9, error=error, bar=1e-6, rounds=3
    )


def statistics():
    """P13."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    fake = rows(2)
    net = torch.nn.Identity()
    net.num_features = D
    sums: dict[str, torch.Tensor] = {}

    def running_sums():
        metric = FrechetInceptionDistance(feature=net)
        for batch in fake.split(BATCH):
            metric.update(batch, real=True)
        n, total = metric.real_features_num_samples, metric.real_features_sum
        sums["peer"] = (metric.real_features_cov_sum - torch.outer(total, total) / n) / (n - 1)

    def numpy_cov():
        sums["peer"] = torch.from_numpy(np.cov(fake.numpy(), rowvar=False))

    def streaming():
        sums["ours"] = moments(fake).covariance

    def streaming32():
        sums["ours"] = moments(fake, dtype=torch.float32).covariance

    def gap():
        return float((sums["ours"] - sums["peer"]).norm() / sums["peer"].norm())

    for run, dtype, bar in ((streaming, "float64", 1e-9), (streaming32, "float32", 1e-6)):
        name = f"P13 10k x 2048, {dtype} products"
        compare(f"{name}, torchmetrics", peer=running_sums, ours=run, floor=5, goal=10, error=gap, bar=bar)
        compare(f"{name}, np.cov", peer=numpy_cov, ours=run, floor=0.8, goal=1.7, error=gap, bar=bar)


def main():
    distance()
    statistics()
    finish()


if __name__ == "__main__":
    main()
