"""The text-to-image model of the tableau world: a small latent U-Net that reads captions, 64 x 64 pixels."""

from __future__ import annotations

from .. import assets
from ..core import Flow, FlowTime, Rectified
from ..data import Latents, Worded
from ..data.tableau import Tableau
from ..data.tableau.retold import Retold
from ..nets import CaptionedConfig, LatentUNetConfig, WordEncoderConfig
from ..objectives import Denoising, LogitNormal
from ..pipeline import Defaults, Pixels
from ..solvers import DPMpp2M
from ..train import InverseSqrt, Muon, TrainConfig
from .recipe import Recipe
from .tableau_clip import tableau_words

# of the styles: half of the captions say everything, since what is not said cannot be learned to be followed
TOLD = (0.1, 0.5, 0.15, 0.15, 0.02, 0.08)

PROMPTS = (
    "a small red circle",
    "two green stars left of a large red ring",
    "a blue square above a yellow heart",
    "three white drops on a slate background",
)


def tableau() -> Recipe:
    """Return the recipe: 4.09 M parameters, a rectified flow in the latents of the codec that ships with the model.

    With another codec: `--data.data.data.coder DIR`, a folder of `save_codec` (./tableau-kl where none is shipped). Its
    latents of all scenes are encoded first, once, into `--data.data.data.path`; captions are drawn anew in every epoch.

    It learns several times faster with a reader that knows what captions say: `--start.path RUN --start.fresh net.*`,
    where RUN is one of `tableau-reader`.
    """
    words = tableau_words()
    coder = str(assets.HOME / "tableau") if "tableau" in assets.names() else "tableau-kl"
    scenes = Tableau(size=131_072, dequantise=0.02)
    # means alone: the posterior is narrower than a hundredth of the latents' spread
    latents = Latents(path="runs/tableau-latents", coder=coder, data=scenes, draw=False)
    return Recipe(
        data=Worded(data=Retold(data=latents, weights=TOLD), words=words),
        net=CaptionedConfig(
            text=WordEncoderConfig(words=words.count, length=words.length, width=96, layers=3, heads=3),
            net=LatentUNetConfig(
                widths=(96, 112),
                layers=1,
                transformers=(1, 0),
                middle=1,
                heads=(3, 4),
                context=96,
                patch=2,  # all on 8 x 8 places and fewer: twice the pictures a second of the same on 16 x 16
                groups=16,
                convolved=False,
            ),
        ),
        schedule=Rectified(),
        prediction=Flow(),
        scaling=FlowTime(),
        # what is said is decided above t = 1/2, outlines below: pictures are spoilt all along the way
        objective=Denoising(time=LogitNormal(mean=0.2, std=1.1), drop=0.1),
        train=TrainConfig(
            steps=10_000,
            batch_size=128,
            lr=2.5e-3,
            rate=InverseSqrt(warmup=100, after=5_000),  # unlike a cosine, it lets a run be made longer
            optimiser=Muon(),
            ema=(30_000.0,),
            checkpoint_every=100,
            sample_every=500,
            log_every=25,
        ),
        modality=Pixels(),
        defaults=Defaults(solver=DPMpp2M(), grid="uniform", steps=20, guidance=3.0),
        prompts=PROMPTS,
    )
