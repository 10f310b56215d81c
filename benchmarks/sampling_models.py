"""Networks of released sizes with random weights, in diffusers and in ours on the same memory. For `sampling.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.interop.diffusers import dit, latent_unet, mmdit
from sfumato.interop.diffusers.layout import Layout
from sfumato.interop.links import read
from sfumato.pipeline.folder import empty
from sfumato.pipeline.packing import quick

TABLE = sf.Table.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)
VPS = {"schedule": TABLE, "prediction": sf.Eps(), "scaling": sf.Plain(scale=1000.0, shift=-1.0)}
FLOW = {"schedule": sf.Rectified(shift=3.0), "prediction": sf.Flow(), "scaling": sf.FlowTime()}


@dataclass(kw_only=True)
class Model:
    """A guided step: what diffusers' pipeline does of it beside its scheduler, and our denoiser.

    - `make`: diffusers' network; `layout`: how ours reads it; `x`: the state of one sample.
    - `cond`, `null`: our conditions, one row each; `call(net, x, label, cond)`: diffusers' network on doubled rows.
    - `contract`: schedule, prediction and scaling; `scale`: of the guidance.
    """

    name: str
    make: Callable[[], nn.Module]
    layout: Layout
    x: tuple[int, ...]
    call: Callable[[nn.Module, Tensor, Tensor, dict[str, Tensor]], Tensor]
    cond: dict[str, Tensor]
    null: dict[str, Tensor]
    contract: dict[str, Any] = field(default_factory=lambda: VPS)
    scale: float = 4.0
    time: float = 0.5

    def theirs(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Return diffusers' network, with random weights that are the same at every call."""
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # made in it: in float32 first, it would take twice the memory
        try:
            net = self.make().to(dtype).eval()  # what it makes in float32 whatever the default, too
        finally:
            torch.set_default_dtype(default)
        if self.layout is dit.LAYOUT:  # released files hold one embedder, many times
            for block in net.transformer_blocks:
                block.norm1.emb.load_state_dict(net.transformer_blocks[0].norm1.emb.state_dict())
        return net

    def ours(self, theirs: nn.Module) -> nn.Module:
        """Return our network on the memory of theirs."""
        dtype = next(theirs.parameters()).dtype
        net = empty(self.layout.config(dict(theirs.config)), dtype).eval()
        net.load_state_dict(read(self.layout.links(net), theirs.state_dict())[0], assign=True)
        return net.requires_grad_(False)

    def inputs(self, batch: int, device: str) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return (x, conditions, null conditions) of `batch` rows."""
        x = sf.core.Noise(range(batch)).normal((batch, *self.x), "start").to(device)
        rows = [
            {k: v.repeat(batch, *[1] * (v.ndim - 1)).to(device) for k, v in c.items()} for c in (self.cond, self.null)
        ]
        return x, *rows

    def peer(self, net: nn.Module, batch: int, device: str = "cpu", form: Any = torch.contiguous_format):
        """Return the step by diffusers' network: () -> x_0. Texts are doubled once, as its pipelines do."""
        x, cond, null = self.inputs(batch, device)
        dtype = next(net.parameters()).dtype
        cast = lambda v: v.to(dtype) if v.is_floating_point() else v
        both = {k: cast(torch.cat([null[k], cond[k]])) for k in cond}
        alpha, sigma = self.contract["schedule"](self.time)
        label = torch.tensor([float(self.contract["scaling"](self.time, alpha, sigma)[1])] * 2 * batch, device=device)

        @torch.no_grad()
        def step() -> Tensor:
            out = self.call(net, torch.cat([x, x]).to(dtype).contiguous(memory_format=form), label, both)
            null, conditional = out.float().chunk(2)
            return self.contract["prediction"].to_x0(null + self.scale * (conditional - null), x, alpha, sigma)

        return step

    def step(
        self, net: nn.Module, batch: int, device: str = "cpu", memory: tuple[str, ...] = ()
    ) -> Callable[[], Tensor]:
        """Return the step by ours as a pipeline's run of 50 steps makes it, with memory savers or none: () -> x_0.

        What such a run does once is done before or in the first call: the packing of weights, what time and conditions
        decide.
        """
        x, cond, null = self.inputs(batch, device)
        denoiser = sf.Preconditioned(net, **self.contract)
        with torch.no_grad():
            begun = time.process_time()
            denoiser = quick(denoiser, 50, memory)
            if denoiser.net is not net:
                print(f"  {self.name}: packed in {time.process_time() - begun:.2f} s", flush=True)
            guided = sf.core.prepare(
                sf.guidance.ClassifierFree(denoiser=denoiser, scale=self.scale, null=null), [self.time]
            )
        return torch.no_grad()(lambda: guided(x, self.time, **cond))


def drawn(name: str, *shape: int) -> Tensor:
    """Return noise that belongs to a name."""
    return sf.core.Noise([0]).normal((1, *shape), name)


def texts(**shapes: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    """Return `cond` and `null` of random texts."""
    return {side: {k: drawn(f"{side} {k}", *shape) for k, shape in shapes.items()} for side in ("cond", "null")}


def dit_model(name: str, **shape: int) -> Model:
    """Return a DiT with 1000 classes on latents of 32 x 32."""
    from diffusers import DiTTransformer2DModel

    return Model(
        name=name,
        make=lambda: DiTTransformer2DModel(sample_size=32, num_embeds_ada_norm=1000, **shape),
        layout=dit.LAYOUT,
        x=(4, 32, 32),
        call=lambda net, x, t, c: net(x, timestep=t, class_labels=c["y"]).sample,
        cond={"y": torch.tensor([207])},
        null={"y": torch.tensor([1000])},
    )


def dit_s() -> Model:
    return dit_model("DiT-S/2", num_layers=12, num_attention_heads=6, attention_head_dim=64)


def dit_xl() -> Model:
    return dit_model("DiT-XL/2", num_layers=28, num_attention_heads=16, attention_head_dim=72)


def sd15() -> Model:
    """Return the U-Net of Stable Diffusion 1.5 on latents of 64 x 64."""
    from diffusers import UNet2DConditionModel

    return Model(
        name="SD 1.5 U-Net",
        make=lambda: UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        layout=latent_unet.LAYOUT,
        x=(4, 64, 64),
        call=lambda net, x, t, c: net(x, t, encoder_hidden_states=c["context"]).sample,
        scale=7.5,
        **texts(context=(77, 768)),
    )


def sdxl() -> Model:
    """Return the U-Net of SDXL on latents of 128 x 128."""
    from diffusers import UNet2DConditionModel

    shape = {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    given = texts(context=(77, 2048), pooled=(1280,))
    for side in given.values():
        side["sizes"] = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]])

    def call(net: nn.Module, x: Tensor, t: Tensor, c: dict[str, Tensor]) -> Tensor:
        more = {"text_embeds": c["pooled"], "time_ids": c["sizes"]}
        return net(x, t, encoder_hidden_states=c["context"], added_cond_kwargs=more).sample

    make = lambda: UNet2DConditionModel(**shape)
    return Model(
        name="SDXL U-Net", make=make, layout=latent_unet.LAYOUT, x=(4, 128, 128), call=call, scale=5.0, **given
    )


def sd3() -> Model:
    """Return the transformer of Stable Diffusion 3 medium on latents of 128 x 128."""
    from diffusers import SD3Transformer2DModel

    shape = {
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
    }

    def call(net: nn.Module, x: Tensor, t: Tensor, c: dict[str, Tensor]) -> Tensor:
        return net(x, encoder_hidden_states=c["context"], pooled_projections=c["pooled"], timestep=t).sample

    return Model(
        name="SD3 medium",
        make=lambda: SD3Transformer2DModel(sample_size=128, in_channels=16, out_channels=16, **shape),
        layout=mmdit.LAYOUT,
        x=(16, 128, 128),
        call=call,
        contract=FLOW,
        scale=7.0,
        **texts(context=(333, 4096), pooled=(2048,)),
    )
