"""How much GPU memory a configuration takes, and which settings bring it under a limit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lipforge.train.config import (
    DiffusionConfig,
    Stage1Config,
    Stage2Config,
    SyncNetConfig,
    TrainerConfig,
    load_preset,
    presets,
)
from lipforge.train.plan import step
from lipforge.train.plan.step import Rehearsal, Rehearser
from lipforge.train.status import trainer_of

GB = 2**30
"""As GPUs are sold and as nvidia-smi counts."""
ALLOWANCE_BYTES = GB
"""CUDA's context, and workspaces of its libraries that are not computed. Assumed."""
DEFAULT_RESOLUTION = 256
_KINDS: dict[str, type[TrainerConfig]] = {"stage1": Stage1Config, "stage2": Stage2Config, "syncnet": SyncNetConfig}

Parts = dict[str, int]
"""Bytes by what they are."""


@dataclass(frozen=True)
class Plan:
    config: TrainerConfig
    resolution: int
    gpus: int
    rehearsal: Rehearsal
    moments: Mapping[str, Parts]
    """The fullest moment of each phase, in order."""
    gaps_bytes: int
    """What torch's allocator holds besides tensors."""

    @property
    def peak_phase(self) -> str:
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def peak(self) -> Parts:
        return self.moments[self.peak_phase]

    @property
    def total_bytes(self) -> int:
        """Of one GPU."""
        return sum(self.peak.values()) + self.gaps_bytes + ALLOWANCE_BYTES


@dataclass(frozen=True)
class Knob:
    """A setting that saves memory."""

    setting: str
    """What to write after `--set`, the launch file to take, or the environment variable to set."""
    costs: str
    applies: Callable[[TrainerConfig, int], bool]
    """To a configuration on that many GPUs."""
    config: Callable[[TrainerConfig], TrainerConfig] | None = None
    """The configuration with it: it is rehearsed again."""
    moment: Callable[[Plan, Parts], Parts] | None = None
    """What it makes of each moment; where that is enough."""
    drops: str = ""
    """Phase that it removes."""
    closes_gaps: bool = False


@dataclass(frozen=True)
class Turned:
    """A knob, on top of those before it."""

    setting: str
    costs: str
    saves_bytes: int
    total_bytes: int
    """With it."""
    fits: bool


@dataclass(frozen=True)
class Advice:
    plan: Plan
    limit_bytes: int | None
    fits: bool
    turned: list[Turned] = field(default_factory=list)
    """In the order of least harm, up to the one that brings the plan under the limit."""


def read_config(preset: str, overrides: list[str]) -> TrainerConfig:
    """Settings of any trainer; `selection` and `run_dir` need not be there. Raises ValueError."""
    kind = _KINDS[trainer_of(_tree(preset))]
    return load_preset(kind, preset, ["selection=none", "run_dir=none", *overrides])


def _tree(preset: str) -> dict[str, Any]:
    """The settings as written. What is wrong with them, `load_preset` says.

    Raises ValueError for a name that no trainer has a preset of: which trainer is meant is not known then.
    """
    path = Path(preset)
    if preset not in presets() and len(path.parts) == 1 and not path.suffix:
        raise ValueError(f"no preset {preset!r}; known: {', '.join(presets())}. Or give the path of a YAML file")
    if preset in presets():
        path = Path(__file__).parents[1] / "configs" / f"{preset}.yaml"
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return tree if isinstance(tree, dict) else {}


def make_plan(config: TrainerConfig, gpus: int = 1, fake: bool = True) -> Plan:
    """Rehearse a step and a validation: seconds for the tiny presets, up to a minute for the large ones.

    fake: see Rehearser. Raises ValueError for settings that do not fit each other.
    """
    resolution = config.resolution or DEFAULT_RESOLUTION
    found = Rehearser(config, resolution, gpus, fake).rehearse()
    moments = {name: dict(peak.parts) for name, peak in found.peaks.items()}
    gaps_bytes = max(0, found.reserved_bytes - max(peak.bytes for peak in found.peaks.values()))
    return Plan(config, resolution, gpus, found, moments, gaps_bytes)


def advise(config: TrainerConfig, gpus: int, limit_bytes: int | None) -> Advice:
    """The plan, and knobs that bring it under the limit; without a limit, all knobs that are left."""
    first = plan = make_plan(config, gpus)
    fits = limit_bytes is not None and plan.total_bytes <= limit_bytes
    turned: list[Turned] = []
    used: list[Knob] = []
    for knob in KNOBS:
        if limit_bytes is not None and plan.total_bytes <= limit_bytes:
            break
        if not knob.applies(plan.config, gpus):
            continue
        before = plan.total_bytes
        if knob.config is not None:
            plan = make_plan(knob.config(plan.config), gpus)
            for earlier in used:
                plan = _turn(plan, earlier)
        else:
            used.append(knob)
            plan = _turn(plan, knob)
        now_fits = limit_bytes is not None and plan.total_bytes <= limit_bytes
        turned.append(Turned(knob.setting, knob.costs, before - plan.total_bytes, plan.total_bytes, now_fits))
    return Advice(first, limit_bytes, fits, turned)


def _turn(plan: Plan, knob: Knob) -> Plan:
    moments = {
        name: knob.moment(plan, parts) if knob.moment else parts
        for name, parts in plan.moments.items()
        if name != knob.drops
    }
    return replace(plan, moments=moments, gaps_bytes=0 if knob.closes_gaps else plan.gaps_bytes)


def _without(*names: str) -> Callable[[Plan, Parts], Parts]:
    return lambda _, parts: {name: size for name, size in parts.items() if name not in names}


def _in_8_bits(_: Plan, parts: Parts) -> Parts:
    scaled = _without(step.TEMPORARY)(_, parts)
    if step.OPTIMIZER in scaled:
        scaled[step.OPTIMIZER] = round(scaled[step.OPTIMIZER] * _SHARE_8BIT)
    return scaled


_SHARE_8BIT = (1 + 4 / 256) / 4
"""Of 32-bit moments: a byte a number, and a scale of 4 bytes for each block of 256."""


def _shared_out(plan: Plan, parts: Parts) -> Parts:
    """FSDP2: each GPU has its share of weights, gradients and moments, and two whole layers, one of them on its way."""
    shared = {
        name: round(size / plan.gpus) if name in _SHARED else size
        for name, size in parts.items()
        if name != step.BUCKETS
    }
    return {**shared, "gathered layers": 2 * plan.rehearsal.largest_layer}


_SHARED = (step.PARAMETERS, step.GRADIENTS, step.OPTIMIZER, step.EMA, step.TEMPORARY)


def _adapters(plan: Plan, parts: Parts) -> Parts:
    """Gradients and moments of adapters alone, and their weights."""
    rehearsal = plan.rehearsal
    share = rehearsal.lora_numbers / rehearsal.trainable_numbers
    trained = (step.GRADIENTS, step.OPTIMIZER, step.EMA, step.TEMPORARY, step.BUCKETS)
    scaled = {name: round(size * share) if name in trained else size for name, size in parts.items()}
    scaled[step.PARAMETERS] += 4 * rehearsal.lora_numbers
    return scaled


def _one_by_one(config: TrainerConfig) -> TrainerConfig:
    accumulated = config.batch_size * config.gradient_accumulation_steps
    return config.model_copy(update={"batch_size": 1, "gradient_accumulation_steps": accumulated})


def _has(**settings: object) -> Callable[[TrainerConfig], TrainerConfig]:
    return lambda config: config.model_copy(update=settings)


KNOBS = (
    Knob(
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "nothing: an environment variable",
        lambda *_: True,
        closes_gaps=True,
    ),
    Knob(
        "gradient_checkpointing=true",
        "a third more time",
        lambda config, _: isinstance(config, DiffusionConfig) and not config.gradient_checkpointing,
        config=_has(gradient_checkpointing=True),
    ),
    Knob(
        "mixed_precision=bf16",
        "digits that training does not miss; it is faster, too",
        lambda config, _: config.mixed_precision == "no",
        config=_has(mixed_precision="bf16"),
    ),
    Knob(
        "features=FOLDER",
        "disk space for `lipforge features`; steps are faster, too",
        lambda config, _: isinstance(config, DiffusionConfig) and config.features is None,
        drops="encode",
    ),
    Knob(
        "ema.on_cpu=true",
        "a copy to main memory at each step",
        lambda config, _: config.ema.decay is not None and not config.ema.on_cpu,
        moment=_without(step.EMA),
    ),
    Knob(
        "optimizer.name=adamw8bit",
        "moments with 8 bits",
        lambda config, _: config.optimizer.name == "adamw",
        moment=_in_8_bits,
    ),
    Knob(
        "batch_size=1",
        "time; take more gradient_accumulation_steps for the same gradient",
        lambda config, _: config.batch_size > 1,
        config=_one_by_one,
    ),
    Knob(
        "--config_file infra/accelerate/fsdp2.yaml",
        "traffic between the GPUs; estimated",
        lambda _, gpus: gpus > 1,
        moment=_shared_out,
    ),
    Knob(
        "losses.trepa=0",
        "TREPA, which keeps teeth and beards steady; saves at least this",
        lambda config, _: isinstance(config, Stage2Config) and config.losses.trepa > 0,
        moment=_without("VideoMAE"),
    ),
    Knob(
        "lora.rank=16",
        "only adapters learn",
        lambda config, _: isinstance(config, DiffusionConfig) and config.lora is None,
        moment=_adapters,
    ),
)
"""In the order of least harm."""
