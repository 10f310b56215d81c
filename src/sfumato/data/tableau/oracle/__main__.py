"""`python -m sfumato.data.tableau.oracle`: the gates of the oracle as tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .gates import softened, table, thresholds


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables, or what they are held to."""
    parser = argparse.ArgumentParser(prog="python -m sfumato.data.tableau.oracle", description=__doc__)
    parser.add_argument("--n", type=int, default=2000, help="scenes for each row (2000)")
    parser.add_argument("--side", type=int, action="append", help="pixels a side (32 and 64)")
    parser.add_argument("--codec", help="a folder or file with a codec, for the round trip")
    parser.add_argument("--thresholds", action="store_true", help="print what `valid` is held to instead")
    args = parser.parse_args(words)
    sides = tuple(args.side or (32, 64))
    trip = _round_trip(args.codec) if args.codec else None
    if args.thresholds:
        for side in sides:
            residual, worst = thresholds(args.n, side, trip or softened)
            print(f"{side} px: residual {residual:.5f}, worst {worst:.5f}")
    else:
        print(table(args.n, sides, trip))


def _round_trip(path: str) -> Callable[[Tensor], Tensor]:
    from ....codecs import load_codec

    codec = load_codec(path)

    @torch.no_grad()
    def trip(pictures: Tensor) -> Tensor:
        return torch.cat([codec.decode(codec.encode(part)).clamp(-1, 1) for part in pictures.split(64)])

    return trip


if __name__ == "__main__":
    main()
