"""P4: one step of DiT-S/2 with classifier-free guidance at batch 8 (16 rows), against diffusers on the same weights.

Ours is timed as it comes, and with its linear layers packed, which is done once a run and takes a part of a step.
"""

from dataclasses import replace

import torch
from harness import compare, finish

import sfumato as sf
from sfumato.nets import packed
from sfumato.nets.blocks.embedding import Sinusoidal
from sfumato.nets.dit import dit_s

BATCH, CLASSES, SCALE = 8, 1000, 4.0


def pair():
    """Return (diffusers' network, ours) with the same random weights."""
    from diffusers import DiTTransformer2DModel

    config = replace(dit_s(), out_channels=4, num_classes=CLASSES, time=Sinusoidal(dim=256, shift=1))
    ours = config.build().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5 * p.shape[-1] ** -0.5)
    theirs = DiTTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        in_channels=config.channels,
        num_layers=config.layers,
        sample_size=config.size,
        patch_size=config.patch,
        num_embeds_ada_norm=CLASSES,
        norm_eps=1e-6,
    ).eval()
    theirs.load_state_dict(renamed(ours))
    return theirs, ours


def renamed(net):
    """Return the weights of our DiT under diffusers' names: its embedders are copied into every block."""
    k = net.config
    modules = {"proj_out_1": net.norm_out.modulation, "proj_out_2": net.out}
    weights = {
        "pos_embed.proj.weight": net.patches.weight.view(k.width, k.channels, k.patch, k.patch),
        "pos_embed.proj.bias": net.patches.bias,
    }
    for i, block in enumerate(net.blocks):
        name = f"transformer_blocks.{i}."
        modules |= {
            name + "norm1.emb.timestep_embedder.linear_1": net.time.mlp[0],
            name + "norm1.emb.timestep_embedder.linear_2": net.time.mlp[2],
            name + "norm1.linear": block.modulation,
            name + "attn1.to_out.0": block.attention.proj,
            name + "ff.net.0.proj": block.mlp.fc1,
            name + "ff.net.2": block.mlp.fc2,
        }
        weights[name + "norm1.emb.class_embedder.embedding_table.weight"] = net.label.table.weight
        for part, w, b in zip("qkv", block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3)):
            weights |= {f"{name}attn1.to_{part}.weight": w, f"{name}attn1.to_{part}.bias": b}
    for name, module in modules.items():
        weights |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    return weights


def main():
    torch.set_num_threads(1)
    theirs, net = pair()
    schedule = sf.Table.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    index = 500
    time = (index + 1) / 1000

    @torch.no_grad()
    def prepared(net):
        denoiser = sf.Preconditioned(net, schedule, sf.Eps(), sf.Plain(scale=1000.0, shift=-1.0))
        return sf.core.prepare(sf.guidance.ClassifierFree(denoiser=denoiser, scale=SCALE), [time])

    x = sf.core.Noise(range(BATCH)).normal((BATCH, 4, 32, 32), "start")
    y = torch.arange(BATCH) * 100
    alpha, sigma = schedule(time)

    @torch.no_grad()
    def peer():
        labels = torch.cat([y, torch.full_like(y, CLASSES)])
        dtype = next(theirs.parameters()).dtype
        t = torch.full((2 * BATCH,), index)
        cond, null = theirs(torch.cat([x, x]).to(dtype), timestep=t, class_labels=labels).sample.float().chunk(2)
        return (x - sigma * (null + SCALE * (cond - null))) / alpha

    def distance(a, b):
        return float((a - b).norm() / b.norm())

    exact = peer()
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        theirs.to(dtype), net.to(dtype)
        # bf16: ours may be no further from float32 than the peer's own bf16
        bar = 1e-5 if dtype == torch.float32 else distance(peer(), exact)
        for kind, network in (("", net), (" packed", packed(net))):
            guided = prepared(network)
            ours = torch.no_grad()(lambda guided=guided: guided(x, time, y=y))
            compare(
                f"P4 DiT-S/2 guided, batch {BATCH}, {name}{kind}",
                peer=peer,
                ours=ours,
                floor=1.15 if dtype == torch.float32 else 1.1,
                goal=1.27,
                error=lambda ours=ours: distance(ours(), exact),
                bar=bar,
            )


if __name__ == "__main__":
    main()
    finish()
