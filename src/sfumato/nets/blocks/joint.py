"""Joint blocks: image and text tokens, each with matrices of their own, in one softmax (SD3, arXiv 2403.03206)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ...core.errors import InputError
from .attend import attend
from .embedding import sinusoidal
from .kernels import gated_add
from .transformer import FeedForward, modulate, patchify

if TYPE_CHECKING:
    from ..hooks import Hooks


class Stream(nn.Module):
    """What an attention does for one kind of tokens: q, k, v with biases, RMS norms of q and k a head, the output.

    `normed`: whether q and k are normalised (eps 1e-6). `out`: whether this kind of tokens is read after the attention;
    without it the matrices of its queries are still there, as in released files, but nothing needs them.
    """

    def __init__(self, width: int, heads: int, *, normed: bool, out: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.norm_q = nn.RMSNorm(width // heads, eps=1e-6) if normed else None
        self.norm_k = nn.RMSNorm(width // heads, eps=1e-6) if normed else None
        self.out = nn.Linear(width, width) if out else None

    def queries(self, x: Tensor) -> Tensor:
        """Return q [B, heads, N, d]."""
        q = self._split(self.q(x))
        return (q if self.norm_q is None else self.norm_q(q)).transpose(1, 2)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (k, v) [B, heads, N, d]."""
        k = self._split(self.k(x))
        k = k if self.norm_k is None else self.norm_k(k)
        return k.transpose(1, 2), self._split(self.v(x)).transpose(1, 2)

    def _split(self, tokens: Tensor) -> Tensor:
        """Return [B, N, heads, d]: what is normalised before the axes change places lies together."""
        return tokens.unflatten(-1, (self.heads, -1))


class JointAttention(nn.Module):
    """One softmax over image tokens and, where there is a stream for it, text tokens: kind "joint", else "self".

    At its site q, k, v, probabilities and outputs hold the image's tokens first, then the text's. In the last block
    of a network nobody reads the text's outputs: there its queries are left out, its keys and values remain.
    """

    def __init__(self, width: int, heads: int, *, normed: bool, text: bool = True, last: bool = False) -> None:
        super().__init__()
        self.kind = "joint" if text else "self"
        self.heads = heads
        self.image = Stream(width, heads, normed=normed)
        self.text = Stream(width, heads, normed=normed, out=not last) if text else None

    def forward(
        self, x: Tensor, text: Tensor | None = None, hooks: Hooks | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs [B, N, width] of image tokens `x`, and [B, T, width] of `text`, None where unread."""
        events = None if hooks is None else hooks.of(self)
        n = x.shape[1]
        if events is not None:
            ready = events.before(joined(x, text))
            if ready is not None:
                return parted(events.out(ready), n)
        q, (k, v) = self.image.queries(x), self.image.keys(x)
        stream, answer = self.text, None if self.text is None else self.text.out
        if stream is not None:
            assert text is not None
            more = stream.keys(text)
            k, v = torch.cat((k, more[0]), dim=2), torch.cat((v, more[1]), dim=2)
            if answer is not None:
                q = torch.cat((q, stream.queries(text)), dim=2)
        kernel = attend if events is None else events.attend
        y, rest = parted(kernel(q, k, v, None).transpose(1, 2).flatten(2), n)
        y = cast(nn.Linear, self.image.out)(y)
        rest = None if answer is None else answer(rest)
        return (y, rest) if events is None else parted(events.out(joined(y, rest)), n)


class JointBlock(nn.Module):
    """x += g_1 A(LN(x)(1 + s_1) + b_1); x += g_2 MLP(LN(x)(1 + s_2) + b_2), for image and text, A over both.

    b, s, g = W SiLU(c) + bias, each stream its own; LN without a learned part, eps 1e-6. Sites: the block, kind
    "block", and its attentions. At the block's the tokens are those of the image, then those of the text.
    - `dual`: a second attention over the image alone, of the same x: x += g_3 A'(LN(x)(1 + s_3) + b_3)
      (Stable Diffusion 3.5 medium).
    - `text`: whether there is a text stream; `last`: whether nobody reads it afterwards, so that of it the norm
      before the attention is left, with b and s alone.
    """

    kind = "block"

    def __init__(
        self, width: int, heads: int, *, normed: bool, dual: bool = False, text: bool = True, last: bool = False
    ) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, (9 if dual else 6) * width)
        self.attn = JointAttention(width, heads, normed=normed, text=text, last=last)
        self.attn2 = JointAttention(width, heads, normed=normed, text=False) if dual else None
        self.mlp = FeedForward(width, 4 * width)
        self.text_modulation = nn.Linear(width, (2 if last else 6) * width) if text else None
        self.text_mlp = FeedForward(width, 4 * width) if text and not last else None

    def steer(self, silu_c: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what the two streams read of SiLU(c) [..., width]: (6 or 9 vectors, 6 or 2), None without a text."""
        return self.modulation(silu_c), None if self.text_modulation is None else self.text_modulation(silu_c)

    def forward(
        self,
        x: Tensor,
        text: Tensor | None,
        steering: tuple[Tensor, Tensor | None],
        hooks: Hooks | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the next image tokens [B, N, width] and text tokens, None after the last block."""
        events = None if hooks is None else hooks.of(self)
        n = x.shape[1]
        if events is not None:
            ready = events.before(joined(x, text))
            if ready is not None:
                return parted(events.after(ready), n)
        b1, s1, g1, b2, s2, g2, *second = steering[0].unsqueeze(1).chunk(9 if self.attn2 else 6, dim=-1)
        ours = cast("tuple[Tensor, ...]", ())
        read = None
        if steering[1] is not None and text is not None:
            ours = steering[1].unsqueeze(1).chunk(6 if self.text_mlp else 2, dim=-1)
            read = modulate(text, ours[0], ours[1])
        y, rest = self.attn(modulate(x, b1, s1), read, hooks)
        # not in place: subscribers may hold what came in
        h = torch.addcmul(x, g1, y)
        if self.attn2 is not None:
            b3, s3, g3 = second
            h = gated_add(h, g3, self.attn2(modulate(x, b3, s3), None, hooks)[0])
        h = gated_add(h, g2, self.mlp(modulate(h, b2, s2)))
        if self.text_mlp is not None and text is not None and rest is not None:
            _, _, g, b, s, gate = ours
            text = torch.addcmul(text, g, rest)
            text = gated_add(text, gate, self.text_mlp(modulate(text, b, s)))
        elif self.text_modulation is not None:
            text = None
        return (h, text) if events is None else parted(events.after(joined(h, text)), n)


def joined(x: Tensor, text: Tensor | None) -> Tensor:
    """Return the tokens of the image, then those of the text."""
    return x if text is None else torch.cat((x, text), dim=1)


def parted(tokens: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
    """Return the first `n` tokens and the rest, None where there is none."""
    return tokens[:, :n], tokens[:, n:] if tokens.shape[1] > n else None


class PatchEmbedding(nn.Module):
    """W (p x p patches) + b, plus the centre of a stored table of positions [side, side, width] (none for side 0).

    The table holds sines and cosines of the row and column times base / side, so that a grid of `base` is seen as in
    training at any `side`. It is a part of the weights, as in released files.
    """

    table: Tensor

    def __init__(self, channels: int, patch: int, width: int, *, side: int = 0, base: int = 64) -> None:
        super().__init__()
        self.channels, self.patch, self.side = channels, patch, side
        self.matrix = nn.Linear(channels * patch * patch, width)
        if side:
            axis = sinusoidal(torch.arange(side) * (base / side), width // 2, sin_first=True)
            columns, rows = axis.expand(side, -1, -1), axis.unsqueeze(1).expand(-1, side, -1)
            self.register_buffer("table", torch.cat((columns, rows), dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens [B, H/p W/p, width] of `x` [B, C, H, W]; `InputError` for a grid beyond the table."""
        p, channels = self.patch, self.channels
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % p or x.shape[3] % p:
            raise InputError(
                f"patches of {p} need [B, {channels}, H, W] with H and W multiples of {p}: {list(x.shape)}"
            )
        h = self.matrix(patchify(x, p))
        if not self.side:
            return h
        rows, columns = x.shape[2] // p, x.shape[3] // p
        if max(rows, columns) > self.side:
            raise InputError(f"a grid of {rows} x {columns} patches is beyond the table of {self.side} x {self.side}")
        top, left = (self.side - rows) // 2, (self.side - columns) // 2
        window = self.table[top : top + rows, left : left + columns]
        return (h.unflatten(1, (rows, columns)) + window).flatten(1, 2)


def initialised_as_dit(net: nn.Module) -> None:
    """Initialise matrices Xavier-uniform, biases zero, all modulations and the network's last matrix zero: each block
    starts as the identity, the output as 0 (arXiv 2212.09748, section 3.2).
    """
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            zero = name == "out" or name.endswith("modulation")
            (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(module.weight)
