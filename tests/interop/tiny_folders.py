"""Tiny pipelines of diffusers with random weights, saved as folders: what the readers are tested on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from interop_parity import scrambled

sys.path.insert(0, str(Path(__file__).parents[1] / "conditioning"))
import tiny_text

diffusers = pytest.importorskip("diffusers")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": tiny_text.WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
VAE = {
    "block_out_channels": (16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 16,
}


def vae(**changes):
    return scrambled(diffusers.AutoencoderKL(**(VAE | changes)), 5, scale=0.1)


def unet(**changes):
    return scrambled(diffusers.UNet2DConditionModel(**(UNET | changes)), 6, scale=0.1)


def sd(kind="StableDiffusionPipeline", scheduler=None, *, unet_changes=None, **parts):
    made = {
        "unet": unet(**(unet_changes or {})),
        "vae": vae(),
        "text_encoder": tiny_text.clip_text(),
        "tokenizer": tiny_text.clip_tokenizer(),
        "scheduler": scheduler or diffusers.DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
    }
    if kind in ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline"):
        parts = {"requires_safety_checker": False, **parts}
    return quiet(getattr(diffusers, kind)(**(made | parts)))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def times(scheduler, steps):
    """Return our times of a scheduler's steps, the last to the data."""
    scheduler.set_timesteps(steps)
    return [(float(t) + 1) / 1000 for t in scheduler.timesteps] + [0.0]


def start(shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


XL_UNET = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
}


def xl(kind="StableDiffusionXLPipeline", *, unet_changes=None, **parts):
    refiner = kind == "StableDiffusionXLImg2ImgPipeline"
    projection = 1280 if refiner else 24
    width = tiny_text.WIDTH * (1 if refiner else 2)
    changes = XL_UNET | {
        "cross_attention_dim": width,
        "projection_class_embeddings_input_dim": projection + 256 * (5 if refiner else 6),
    }
    made = {
        "unet": unet(**(changes | (unet_changes or {}))),
        "vae": vae(force_upcast=True, scaling_factor=0.13025),
        "text_encoder": None if refiner else tiny_text.clip_text(),
        "tokenizer": None if refiner else tiny_text.clip_tokenizer(),
        "text_encoder_2": tiny_text.clip_text(act="gelu", projection=projection, seed=9),
        "tokenizer_2": tiny_text.clip_tokenizer(pad="!"),
        "scheduler": diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        "force_zeros_for_empty_prompt": not refiner,
    }
    if refiner:
        parts = {"requires_aesthetics_score": True, **parts}
    return quiet(getattr(diffusers, kind)(**(made | parts)))


def sd3(**parts):
    net = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=48,
        pos_embed_max_size=24,
    )
    made = {
        "transformer": scrambled(net, 6, scale=0.1),
        "vae": vae(
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0609,
            scaling_factor=1.5305,
        ),
        "text_encoder": tiny_text.clip_text(projection=24, width=24),
        "tokenizer": tiny_text.clip_tokenizer(),
        "text_encoder_2": tiny_text.clip_text(act="gelu", projection=24, width=24, seed=9),
        "tokenizer_2": tiny_text.clip_tokenizer(pad="!"),
        "text_encoder_3": tiny_text.t5(width=64),
        "tokenizer_3": tiny_text.t5_tokenizer(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return quiet(diffusers.StableDiffusion3Pipeline(**(made | parts)))


def pixart(**parts):
    net = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=tiny_text.WIDTH,
        in_channels=4,
        out_channels=8,
        patch_size=2,
    )
    made = {
        "transformer": scrambled(net, 6, scale=0.1),
        "vae": vae(),
        "text_encoder": tiny_text.t5(),
        "tokenizer": tiny_text.t5_tokenizer(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(beta_end=0.02, beta_start=0.0001),
    }
    return quiet(diffusers.PixArtAlphaPipeline(**(made | parts)))


def dit(**parts):
    net = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_eps=1e-6,
    )
    scrambled(net, 6, scale=0.1)
    for block in net.transformer_blocks:  # released files hold one embedder, many times
        block.norm1.emb.load_state_dict(net.transformer_blocks[0].norm1.emb.state_dict())
    made = {
        "transformer": net,
        "vae": vae(),
        "scheduler": diffusers.DDIMScheduler(clip_sample=False),
        "id2label": {i: f"thing {i}, other name" for i in range(1000)},
    }
    return quiet(diffusers.DiTPipeline(**(made | parts)))


# some of their pipelines take a factor of 8 for granted
FACTOR_8 = {
    "block_out_channels": (8, 8, 8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def hunyuan(styles=True, **parts):
    net = diffusers.HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        hidden_size=32,
        num_layers=4,
        mlp_ratio=2.0,
        cross_attention_dim=tiny_text.WIDTH,
        cross_attention_dim_t5=tiny_text.WIDTH,
        pooled_projection_dim=16,
        text_len=77,
        text_len_t5=256,
        sample_size=8,
        use_style_cond_and_image_meta_size=styles,
    )
    made = {
        "transformer": scrambled(net, 6, scale=0.1),
        "vae": vae(**FACTOR_8, scaling_factor=0.13025),
        "text_encoder": tiny_text.bert(),
        "tokenizer": tiny_text.bert_tokenizer(),
        "text_encoder_2": tiny_text.t5(multilingual=True),
        "tokenizer_2": tiny_text.t5_tokenizer(),
        "scheduler": diffusers.DDIMScheduler(
            **BETAS | {"beta_end": 0.03}, prediction_type="v_prediction", clip_sample=False, steps_offset=1
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return quiet(diffusers.HunyuanDiTPipeline(**(made | parts)))


def lumina(**parts):
    net = diffusers.LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        cross_attention_dim=tiny_text.WIDTH,
        scaling_factor=1.0,
    )
    made = {
        "transformer": scrambled(net, 6, scale=0.1),
        "vae": vae(**FACTOR_8, scaling_factor=0.13025),
        "text_encoder": tiny_text.gemma(),
        "tokenizer": tiny_text.gemma_tokenizer(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return quiet(diffusers.LuminaPipeline(**(made | parts)))
