"""A step of PixArt and of Hunyuan-DiT, their released width with fewer layers, against diffusers on the same weights.

Two rows of 32 x 32 latents, as guidance has for one picture. What a run computes once is not in ours: diffusers
computes it in each step.
"""

import importlib

import torch
from harness import compare, finish

from sfumato.interop.links import read
from sfumato.nets import packed

G = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(shape, generator=G)


def pixart():
    """Return (diffusers' class, its settings, our conditions, their arguments)."""
    settings = {"num_layers": 2, "sample_size": 32, "caption_channels": 4096}
    cond = {"context": randn(2, 120, 4096), "context_mask": (torch.arange(120) < 30).float().expand(2, 120)}
    theirs = {
        "encoder_hidden_states": cond["context"],
        "encoder_attention_mask": cond["context_mask"],
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return "PixArtTransformer2DModel", settings, cond, theirs


def hunyuan_dit():
    """Return (diffusers' class, its settings, our conditions, their arguments)."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    settings = {"num_layers": 2, "in_channels": 4, "patch_size": 2, "hidden_size": 1408, "mlp_ratio": 4.3637}
    settings["use_style_cond_and_image_meta_size"] = False
    cond = {"context": randn(2, 77, 1024), "context_2": randn(2, 256, 2048)}
    theirs = {
        "encoder_hidden_states": cond["context"],
        "text_embedding_mask": torch.ones(2, 77),
        "encoder_hidden_states_t5": cond["context_2"],
        "text_embedding_mask_t5": torch.ones(2, 256),
        "image_rotary_emb": get_2d_rotary_pos_embed(88, ((0, 0), (32, 32)), (16, 16)),
    }
    return "HunyuanDiT2DModel", settings, cond, theirs


def distance(a, b):
    return float((a.float() - b).norm() / b.norm())


@torch.no_grad()
def main():
    import diffusers

    torch.set_num_threads(1)
    for case in (pixart, hunyuan_dit):
        name, settings, cond, arguments = case()
        theirs = getattr(diffusers, name)(**settings).eval()
        for p in theirs.parameters():
            p.copy_(randn(*p.shape) * 0.5 * p.shape[-1] ** -0.5)
        layout = importlib.import_module(f"sfumato.interop.diffusers.{case.__name__}").LAYOUT
        net = layout.config(dict(theirs.config)).build().eval()
        net.load_state_dict(read(layout.links(net), theirs.state_dict())[0])
        x, t = randn(2, 4, 32, 32), torch.full((2,), 500.0)
        exact = net(x, t, **cond)
        for dtype, label in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
            theirs.to(dtype), net.to(dtype)
            z = x.to(dtype)
            texts = {k: v.to(dtype) for k, v in arguments.items() if k.startswith("encoder_hidden")}
            call = {"timestep": t.to(dtype)} | arguments | texts
            peer = torch.no_grad()(lambda m=theirs, z=z, c=call: m(z, **c).sample)
            bar = 1e-5 if dtype == torch.float32 else 1.2 * distance(peer(), exact)
            for kind, network in (("", net), (" packed", packed(net))):
                emb, given = network.embed(t[:1]), network.condition(**cond)
                ours = torch.no_grad()(lambda n=network, z=z, e=emb, g=given: n.trunk(z, e, **g))
                compare(
                    f"{case.__name__}, batch 2, {label}{kind}",
                    peer=peer,
                    ours=ours,
                    floor=1.0,
                    goal=1.15,
                    error=lambda ours=ours, exact=exact: distance(ours(), exact),
                    bar=bar,
                )


if __name__ == "__main__":
    main()
    finish()
