"""A memory plan for people, as lines of text, and for programs, as plain values."""

from typing import Any

from lipforge.train.config import DiffusionConfig, SyncNetConfig
from lipforge.train.plan.plan import ALLOWANCE_BYTES, GB, Advice, Plan

_BAR = 60
_WORDS = {
    "encode": "encoding frames",
    "forward": "forward pass",
    "pixels": "losses on pixels",
    "backward": "backward pass",
    "optimizer": "optimizer's step",
    "validation": "validation",
}


def advice_lines(advice: Advice) -> list[str]:
    plan = advice.plan
    return [_title(plan), "", *_table(plan), "", *_bars(plan, advice.limit_bytes), "", *_verdict(advice)]


def advice_values(advice: Advice) -> dict[str, Any]:
    """For JSON. All sizes are bytes of one GPU."""
    plan = advice.plan
    return {
        "gpus": plan.gpus,
        "resolution": plan.resolution,
        "parameters": plan.rehearsal.parameter_numbers,
        "trainable_parameters": plan.rehearsal.trainable_numbers,
        "phases": {name: {"bytes": sum(parts.values()), "parts": parts} for name, parts in plan.moments.items()},
        "peak_phase": plan.peak_phase,
        "gaps_bytes": plan.gaps_bytes,
        "allowance_bytes": ALLOWANCE_BYTES,
        "total_bytes": plan.total_bytes,
        "limit_bytes": advice.limit_bytes,
        "fits": advice.fits if advice.limit_bytes is not None else None,
        "knobs": [
            {
                "setting": knob.setting,
                "costs": knob.costs,
                "saves_bytes": knob.saves_bytes,
                "total_bytes": knob.total_bytes,
                "fits": knob.fits if advice.limit_bytes is not None else None,
            }
            for knob in advice.turned
        ],
    }


def _title(plan: Plan) -> str:
    config, numbers = plan.config, plan.rehearsal
    network = config.unet if isinstance(config, DiffusionConfig) else "SyncNet"
    if isinstance(config, SyncNetConfig):
        network = config.syncnet
    trained = (
        ""
        if numbers.trainable_numbers == numbers.parameter_numbers
        else (f", of which {numbers.trainable_numbers / 1e6:,.1f} M are trained")
    )
    where = "one GPU" if plan.gpus == 1 else f"each of {plan.gpus} GPUs"
    assumed = "" if config.resolution is not None else " (resolution is not set)"
    return (
        f"{network}: {numbers.parameter_numbers / 1e6:,.1f} M parameters{trained}. Batch of {config.batch_size} x "
        f"{config.num_frames} frames of {plan.resolution} px{assumed}, "
        f"mixed_precision={config.mixed_precision}, {where}"
    )


def _letters(plan: Plan) -> dict[str, str]:
    """A letter for each part, in order."""
    parts = dict.fromkeys(name for moment in plan.moments.values() for name in moment)
    letters: dict[str, str] = {}
    for name in parts:
        choices = [*name.upper().replace(" ", ""), *"123456789"]
        letters[name] = next(letter for letter in choices if letter not in letters.values())
    return letters


def _table(plan: Plan) -> list[str]:
    rows = [f"{'GB of one GPU (2^30 bytes)':30}{'at the peak':>14}{'at most':>10}"]
    for name, letter in _letters(plan).items():
        most = max(parts.get(name, 0) for parts in plan.moments.values())
        if most >= GB / 1000:
            rows.append(f"{letter} {name:28}{plan.peak.get(name, 0) / GB:14.2f}{most / GB:10.2f}")
    rows.append(f"  {'gaps between blocks':28}{plan.gaps_bytes / GB:14.2f}")
    rows.append(f"  {'CUDA (assumed)':28}{ALLOWANCE_BYTES / GB:14.2f}")
    rows.append(f"  {'in all':28}{plan.total_bytes / GB:14.2f}   ({_WORDS[plan.peak_phase]})")
    return rows


def _bars(plan: Plan, limit_bytes: int | None) -> list[str]:
    scale = max([plan.total_bytes, limit_bytes or 0]) / _BAR
    letters = _letters(plan)
    lines = []
    for phase, parts in plan.moments.items():
        bar, done = "", 0
        for name in letters:  # the same order in all bars
            done += parts.get(name, 0)
            bar += letters[name] * (round(done / scale) - len(bar))
        if limit_bytes is not None:
            at = round(limit_bytes / scale)
            bar = f"{bar:{max(at, len(bar))}}"
            bar = f"{bar[:at]}|{bar[at:]}"
        lines.append(f"{_WORDS[phase]:18}{bar} {sum(parts.values()) / GB:.2f}")
    return lines


def _verdict(advice: Advice) -> list[str]:
    total, limit = advice.plan.total_bytes, advice.limit_bytes
    if limit is not None and advice.fits:
        return [f"Fits into {limit / GB:.4g} GB, with {(limit - total) / GB:.1f} GB to spare."]
    lines = []
    if limit is not None:
        lines.append(f"Does not fit into {limit / GB:.4g} GB: {(total - limit) / GB:.1f} GB too much.")
    if not advice.turned:
        return [*lines, "No setting is left that would save memory."]
    lines.append("Settings that save memory, least harm first, each on top of those above:")
    width = max(len(knob.setting) for knob in advice.turned)
    for knob in advice.turned:
        fits = "  fits" if knob.fits else ""
        saved = f"saves {knob.saves_bytes / GB:5.2f}, then {knob.total_bytes / GB:6.2f}"
        lines.append(f"  {knob.setting:{width}}  {saved}{fits}   costs: {knob.costs}")
    if limit is not None and not advice.turned[-1].fits:
        lines.append("Even with all of them it does not fit: take a smaller resolution, fewer frames or a larger GPU.")
    return lines
