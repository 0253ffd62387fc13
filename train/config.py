"""Settings of the trainers. `train/configs/` has presets; docs/training.md explains them.

    config = load_preset(Stage1Config, "tiny_stage1", ["selection=s.parquet", "run_dir=runs/a"])

A preset is a name of that folder or the path of a YAML file. Unknown settings are refused, with the nearest known one.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, field_validator

from lipforge.pipeline.config_loader import Config, load_config


class OptimizerConfig(Config):
    """AdamW (Loshchilov and Hutter 2019) and its learning rate."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit: moments in 8 bits (bitsandbytes; Dettmers et al. 2022), 6 bytes a trainable parameter less."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """LatentSync's; the same for any number of ranks."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm when theirs is larger."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: down to 0 at `num_steps`."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises from 0."""


class EmaConfig(Config):
    """Exponential moving average of the trainable weights: what validation and `RUN/model` use when it is on."""

    decay: float | None = Field(default=None, gt=0, lt=1)
    """None: off, as published. 0.999 or 0.9999 are usual."""
    on_cpu: bool = False
    """Keep it in main memory: saves 4 bytes of the GPU's for each trainable parameter, costs a copy each step."""


class GenerateConfig(Config):
    """Validation by generated video: held-out clips get new mouths, as inference draws them, and are judged."""

    num_clips: int = Field(default=8, ge=0)
    """Clips of the val split, over all ranks; each of another speaker where there are enough. 0: off."""
    seconds: float = Field(default=3.0, ge=1)
    """Taken from the middle of each clip. Clips shorter than a second cannot be judged, and are left out."""
    steps: int = Field(default=20, ge=1, le=1000)
    """Denoising steps of DDIM (LatentSync: 20)."""
    guidance: float = Field(default=1.5, ge=1)
    """1: none, at half the cost (LatentSync: 1.5)."""
    every: int | None = Field(default=None, ge=1)
    """Training steps between two. None: with each validation."""


class EarlyStoppingConfig(Config):
    """End the run when generated video gets no better."""

    patience: int = Field(default=5, ge=1)
    """Generated validations in a row that are no better than the best before them."""
    min_gain: float = Field(default=0.0, ge=0)
    """Sync confidence by which a validation must exceed the best before it, to count as better."""


class TrainerConfig(Config):
    """What all trainers have in common."""

    selection: str
    """Parquet file that `lipforge select` wrote: a path or an fsspec URL."""
    run_dir: Path
    """Folder of the run: checkpoints, model, metrics, pictures. One run, one folder."""
    features: str | None = None
    """Output of `lipforge features`: kinds that are there replace decoding. None: all is computed at each step."""
    num_steps: int = Field(default=100_000, ge=1)
    """Optimizer steps of the whole run."""
    save_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints. The last step saves one, too."""
    validate_every: int = Field(default=1000, ge=1)
    """Steps between validations. The last step has one, too."""
    log_every: int = Field(default=10, ge=1)
    """Steps between lines of the log and of RUN/metrics.jsonl."""
    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints to keep."""
    keep_best: int = Field(default=1, ge=0)
    """Checkpoints to keep besides: the best ones by generated video, else by validation loss (loop/best.py)."""
    num_validation_samples: int = Field(default=16, ge=1)
    """Samples of the val split that are validated, the same each time, over all ranks."""
    batch_size: int = Field(default=1, ge=1)
    """Samples of one rank in one forward pass. A step has batch_size * gradient_accumulation_steps * ranks."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes of a step; the gradient is the same as that of one large batch."""
    num_frames: int = Field(default=16, ge=1)
    """Frames of a window at 25 fps, for everything: 16 (LatentSync) or 5 (Wav2Lip, SyncNet)."""
    resolution: int | None = Field(default=None, ge=32, multiple_of=8)
    """Side of the frames in pixels; another selection is refused. None: the selection's."""
    resize: bool = False
    """Shrink larger frames to `resolution` instead of refusing them. Cached latents cannot be shrunk."""
    num_workers: int = Field(default=2, ge=0)
    """Processes of one rank that read ahead; 0: read in the trainer's process."""
    cache_dir: Path | None = None
    """Folder on a local disk for samples of remote datasets."""
    cache_gb: float = Field(default=20.0, gt=0)
    """Size limit of the cache, in units of 10^9 bytes."""
    on_damage: Literal["raise", "skip"] = "raise"
    """skip: a damaged sample is reported and replaced by the next one, which does not count in the loss."""
    seed: int = Field(default=0, ge=0)
    resume: Literal["auto", "never"] = "auto"
    """auto: go on after the newest checkpoint of `run_dir`, if there is one; never: refuse a folder that has one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic of the trained network. Its weights stay float32; losses are computed in float32."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third more time."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no_in_yaml(cls, value: object) -> object:
        """YAML reads a bare `no` as false."""
        return "no" if value is False else value


class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2021; the package peft) in the place of trained weights."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=16, ge=1)
    """The adapter's share of a layer is alpha / rank."""
    modules: tuple[str, ...] = Field(default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    """Ends of the names of the layers that get one."""


class DiffusionConfig(TrainerConfig):
    """What stage 1 and stage 2 have in common."""

    unet: str = "stage1"
    """Name of a layout in lipforge.model.denoiser.layouts."""
    init: str | None = None
    """Weights to begin with: a published .pt, a .safetensors, a run's model folder. None: random."""
    init_differences: tuple[Literal["adds_motion_modules", "stable_diffusion_1_5"], ...] = ()
    """Differences between `init` and `unet` that are meant. Any other missing or extra tensor is an error."""
    vae: str = "sd-vae-ft-mse"
    """Autoencoder: `sd-vae-ft-mse` once fetched, `taesd`, which ships, a path, or `blocks`, which blurs."""
    audio_encoder: str = "tiny"
    """What the U-Net hears: a checkpoint of Whisper (`tiny` once fetched, or a path). Without a file: `mel`, columns of
    the spectrogram; `lip_sync`, what the built-in scorer hears in them."""
    trainable: tuple[str, ...] = ()
    """Parts of the names of the weights to train. Empty: all."""
    lora: LoraConfig | None = None
    mixed_noise_alpha: float = Field(default=1.0, ge=0)
    """How much of the noise is shared by the frames of a window (Ge et al. 2023, arXiv 2305.10474)."""
    audio_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of samples that hear zeros, as the unconditional branch of guidance does. 0: as published."""
    min_snr_gamma: float | None = Field(default=None, gt=0)
    """Weigh the noise loss by min(SNR, gamma) / SNR (Hang et al. 2023, arXiv 2303.09556). None: as published."""
    compile: bool = False
    """torch.compile the blocks of the U-Net."""
    channels_last: bool = False
    generate: GenerateConfig = GenerateConfig()
    early_stopping: EarlyStoppingConfig | None = None
    """None: all steps are made."""
    base_selection: str | None = None
    """Forgetting check of a fine-tuning: a selection whose val split holds clips of what must not be lost, such as the
    language that `init` was trained on. They are generated beside the others. None: no check."""
    max_forgetting: float = Field(default=0.15, gt=0, lt=1)
    """Share of the base clips' first sync confidence that may be lost."""
    on_forgetting: Literal["warn", "stop"] = "warn"
    """stop: save and end the run when more is lost."""


class Stage1Config(DiffusionConfig):
    """Stage 1: the U-Net learns to predict noise, frame by frame."""


class LossWeights(Config):
    """Weights of the losses of stage 2 (LatentSync's); 0: not computed, and its network is not loaded."""

    noise: float = Field(default=1.0, ge=0)
    lpips: float = Field(default=0.1, ge=0)
    """LPIPS of the lower half of the one-step estimate's pixels."""
    trepa: float = Field(default=10.0, ge=0)
    """Distance of VideoMAE v2 features, over time."""
    sync: float = Field(default=0.05, ge=0)
    """StableSyncNet's: do these lips match this sound?"""


class Stage2Config(DiffusionConfig):
    """Stage 2: motion modules and attention learn with losses on pixels, too."""

    unet: str = "stage2"
    trainable: tuple[str, ...] = ("motion_modules.", "attentions.")
    losses: LossWeights = LossWeights()
    lpips: str = "vgg16"
    """Files of LPIPS: `vgg16` once fetched, a folder, or `random` (tiny, for trying things out)."""
    videomae: str = "giant"
    """VideoMAE v2: `giant` once fetched, a path, or `random`."""
    syncnet: str = "stable_syncnet"
    """`stable_syncnet` once fetched, the `model` folder of a SyncNet run, a path, or `random`."""


class SyncNetConfig(TrainerConfig):
    """SyncNet: do these frames of a mouth match this sound?"""

    syncnet: str = "syncnet_16_pixel_attn"
    """Name of a layout in lipforge.model.sync.stable_syncnet.LAYOUTS."""
    init: str | None = None
    """Weights to begin with: `stable_syncnet.pt`, a .safetensors, a run's model folder. None: random."""
    vae: str = "sd-vae-ft-mse"
    """Autoencoder of layouts that see latents."""
    min_negative_distance_frames: int = Field(default=3, ge=1)
    """Least distance of the wrong sound from the right one, in frames. LatentSync takes any other start."""


D = TypeVar("D", bound=TrainerConfig)


def presets(kind: type[TrainerConfig] | None = None) -> list[str]:
    """Names of the presets that come with this package: of one trainer, or of all."""
    names = sorted(item.name.removesuffix(".yaml") for item in _folder().iterdir() if item.name.endswith(".yaml"))
    return names if kind is None else [name for name in names if _is_for(kind, name)]


def load_preset(kind: type[D], preset: str, overrides: list[str]) -> D:
    """Settings from a preset (a name, or the path of a YAML file) and `key=value` overrides.

    Raises ValueError naming each wrong setting, what was given and what is expected.
    """
    path = Path(preset)
    own = presets(kind)
    if path.stem in presets() and path.stem not in own:
        raise ValueError(
            f"{path.stem} is a preset of another trainer; those of train.{_trainer(kind)}: {', '.join(own)}"
        )
    if len(path.parts) == 1 and not path.suffix:
        if preset not in own:
            raise ValueError(f"no preset {preset!r}; known: {', '.join(own)}. Or give the path of a YAML file")
        path = Path(str(_folder() / f"{preset}.yaml"))
    return load_config(kind, path, overrides)


def _is_for(kind: type[TrainerConfig], preset: str) -> bool:
    """A preset's name has that of its trainer, or of its network."""
    settings: Any = yaml.safe_load((_folder() / f"{preset}.yaml").read_text())
    named = [trainer for trainer in ("stage1", "stage2", "syncnet") if trainer in preset]
    return _trainer(kind) in (named or str(settings.get("unet", "syncnet")))


def _trainer(kind: type[TrainerConfig]) -> str:
    """stage1, stage2 or syncnet."""
    return kind.__name__.removesuffix("Config").lower()


def _folder() -> Any:
    return files("lipforge.train") / "configs"
