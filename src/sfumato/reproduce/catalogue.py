"""Every published system that the project sets out to reproduce, with its paper. Needs no torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .claims import System


@dataclass(frozen=True)
class Entry:
    """A published system: the id that `sfumato reproduce` takes, and its paper; `arxiv` is "" where there is none.

    `title` is the paper's, shortened where it is long.
    """

    id: str
    year: int
    arxiv: str
    title: str

    @property
    def module(self) -> str:
        """The module that reproduces it."""
        return f"sfumato.reproduce.{self.id.replace('-', '_')}"

    @property
    def exists(self) -> bool:
        """Whether it can be run."""
        return find_spec(self.module) is not None

    def load(self) -> System:
        """Return the system (this imports torch)."""
        return importlib.import_module(self.module).SYSTEM


GROUPS: dict[str, tuple[Entry, ...]] = {
    "Foundations": (
        Entry("datasaurus", 2020, "2006.10739", "The Datasaurus: a DDPM of 142 points, with Fourier features"),
        Entry("ddpm", 2020, "2006.11239", "Denoising diffusion probabilistic models"),
        Entry("improved-ddpm", 2021, "2102.09672", "Improved denoising diffusion probabilistic models"),
        Entry("adm", 2021, "2105.05233", "Diffusion models beat GANs on image synthesis"),
        Entry("ddim", 2020, "2010.02502", "Denoising diffusion implicit models"),
        Entry("ncsn", 2019, "1907.05600", "Generative modeling by estimating gradients of the data distribution"),
        Entry("score-sde", 2020, "2011.13456", "Score-based generative modeling through SDEs"),
        Entry("edm", 2022, "2206.00364", "Elucidating the design space of diffusion-based generative models"),
        Entry("dpm-solver", 2022, "2206.00927", "DPM-Solver: a fast ODE solver for diffusion sampling"),
        Entry("cfg", 2022, "2207.12598", "Classifier-free diffusion guidance"),
        Entry("cold-diffusion", 2022, "2208.09392", "Cold diffusion: inverting arbitrary transforms without noise"),
        Entry("rectified-flow", 2022, "2209.03003", "Flow straight and fast: rectified flow"),
        Entry("consistency-models", 2023, "2303.01469", "Consistency models"),
        Entry("align-your-steps", 2024, "2404.14507", "Align your steps: optimizing sampling schedules"),
        Entry("fid", 2017, "1706.08500", "GANs trained by a two time-scale update rule (the Fréchet distance)"),
    ),
    "Latents and tokens": (
        Entry("vae", 2013, "1312.6114", "Auto-encoding variational Bayes"),
        Entry("vq-vae", 2017, "1711.00937", "Neural discrete representation learning"),
        Entry("dvae", 2021, "2102.12092", "Zero-shot text-to-image generation (stage one)"),
        Entry("igpt", 2020, "", "Generative pretraining from pixels"),
        Entry("dalle", 2021, "2102.12092", "Zero-shot text-to-image generation"),
        Entry("muse", 2023, "2301.00704", "Muse: text-to-image generation via masked generative transformers"),
        Entry("ldm", 2021, "2112.10752", "High-resolution image synthesis with latent diffusion models"),
    ),
    "Text to image": (
        Entry("glide", 2021, "2112.10741", "GLIDE: text-guided image generation and editing"),
        Entry("dalle2", 2022, "2204.06125", "Hierarchical text-conditional image generation with CLIP latents"),
        Entry("imagen", 2022, "2205.11487", "Photorealistic text-to-image models with deep language understanding"),
        Entry("cascaded", 2021, "2106.15282", "Cascaded diffusion models for high fidelity image generation"),
        Entry("stable-diffusion", 2022, "2112.10752", "Stable Diffusion 1 and 2"),
        Entry("sdxl", 2023, "2307.01952", "SDXL: improving latent diffusion models"),
        Entry("sd3", 2024, "2403.03206", "Scaling rectified flow transformers for high-resolution image synthesis"),
        Entry("dit", 2022, "2212.09748", "Scalable diffusion models with transformers"),
        Entry("pixart", 2023, "2310.00426", "PixArt-alpha: fast training of a diffusion transformer"),
        Entry("hunyuan-dit", 2024, "2405.08748", "Hunyuan-DiT: a multi-resolution transformer with Chinese"),
        Entry("lumina", 2024, "2405.05945", "Lumina-T2X: text into any modality, resolution and duration"),
        Entry("diffit", 2023, "2312.02139", "DiffiT: diffusion vision transformers"),
        Entry("emu", 2023, "2309.15807", "Emu: photogenic needles in a haystack"),
        Entry("dalle3", 2023, "", "Improving image generation with better captions"),
    ),
    "Editing and control": (
        Entry("sdedit", 2021, "2108.01073", "SDEdit: guided image synthesis and editing"),
        Entry("inpainting", 2022, "2201.09865", "RePaint: inpainting using denoising diffusion models"),
        Entry("prompt-to-prompt", 2022, "2208.01626", "Prompt-to-prompt image editing with cross attention control"),
        Entry("null-text", 2022, "2211.09794", "Null-text inversion for editing real images"),
        Entry("instruct-pix2pix", 2022, "2211.09800", "InstructPix2Pix: learning to follow image editing instructions"),
        Entry("swap-anything", 2024, "2404.05717", "SwapAnything: arbitrary object swapping"),
        Entry("controlnet", 2023, "2302.05543", "Adding conditional control to text-to-image diffusion models"),
        Entry("controlnet-plus-plus", 2024, "2404.07987", "ControlNet++: efficient consistency feedback"),
        Entry("lora-adapter", 2024, "2405.07913", "CTRLorALTer: conditional LoRAdapter"),
        Entry("instant-id", 2024, "2401.07519", "InstantID: zero-shot identity-preserving generation"),
        Entry("story-diffusion", 2024, "2405.01434", "StoryDiffusion: consistent self-attention"),
    ),
    "Alignment": (Entry("diffusion-dpo", 2023, "2311.12908", "Diffusion model alignment using direct preferences"),),
    "Distillation and speed": (
        Entry("progressive-distillation", 2022, "2202.00512", "Progressive distillation for fast sampling"),
        Entry("guided-distillation", 2022, "2210.03142", "On distillation of guided diffusion models"),
        Entry("lcm", 2023, "2310.04378", "Latent consistency models"),
        Entry("add", 2023, "2311.17042", "Adversarial diffusion distillation"),
        Entry("ladd", 2024, "2403.12015", "Latent adversarial diffusion distillation"),
        Entry("diffusion2gan", 2024, "2405.05967", "Distilling diffusion models into conditional GANs"),
        Entry("sdxs", 2024, "2403.16627", "SDXS: real-time one-step latent diffusion"),
        Entry("imagine-flash", 2024, "2405.05224", "Imagine Flash: backward distillation of Emu"),
        Entry("perflow", 2024, "2405.07510", "PeRFlow: piecewise rectified flow"),
        Entry("tgate", 2024, "2404.02747", "Cross-attention makes inference cumbersome"),
        Entry("edgefusion", 2024, "2404.11925", "EdgeFusion: on-device text-to-image generation"),
    ),
    "Data": (
        Entry("curation", 2022, "2210.08402", "LAION-5B: an open large-scale dataset"),
        Entry("nightshade", 2023, "2310.13828", "Nightshade: prompt-specific poisoning attacks"),
    ),
    "Domains": (
        Entry("audio", 2022, "", "Riffusion: spectrograms as pictures"),
        Entry("video-ldm", 2023, "2304.08818", "Align your latents: video synthesis with latent diffusion"),
        Entry("video-dit", 2024, "", "Video generation models as world simulators"),
        Entry("text-to-3d", 2022, "2209.14988", "DreamFusion: text-to-3D using 2D diffusion"),
        Entry("medical", 2021, "2111.08005", "Inverse problems in medical imaging with score-based models"),
        Entry("planning", 2022, "2205.09991", "Planning with diffusion for flexible behavior synthesis"),
        Entry("protein", 2022, "2209.15611", "Protein structure generation via folding diffusion"),
    ),
}

CATALOGUE: dict[str, Entry] = {entry.id: entry for group in GROUPS.values() for entry in group}
