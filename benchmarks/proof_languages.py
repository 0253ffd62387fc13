"""The proof on made languages: a model of one language learns another by stage 2 alone, and what it forgets.

python -m benchmarks.proof_languages FOLDER --vae taesd

Made speakers babble; 16 in one language, 12 in another whose sounds are the same and whose lips are not
(tests/made_speakers.py). Five of each are held out. A base model is trained on the first language by both stages. Then,
on a selection of the other:

    guarded    stage 2 alone from the base model; ends when the first language is forgotten
    free       the same, without the guard
    anew       both stages from random weights, with ten times the steps

Each validation draws held-out speakers of both languages. What is there is not done again. FOLDER/languages.json has
the course of each run, FOLDER/languages.svg draws it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.commands import lipforge, run, say
from tests.made_speakers import OTHER_LANGUAGE, make_videos

NUM_SPEAKERS, CLIP_S = 28, 8.0
VAL_SHARE = 0.5
"""Of the speakers by hash: five of each language, as it happens."""
FIRST, OTHER = "en", OTHER_LANGUAGE
SHORT_STEPS = 180
"""Of stage 2 on the other language; `anew` gets ten times as many in all."""
BASE_STEPS = {"stage1": 1500, "stage2": 300}
_NUMBERS = ("sync_confidence", "sync_offset_frames", "lip_distance_px", "st_lpips_mouth")
COURSE = tuple(f"{whose}{name}" for whose in ("own_", "base_own_") for name in _NUMBERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vae", default="taesd", help="an autoencoder, as `lipforge features --vae` takes it")
    given = parser.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    first, other = make_data(folder, given.vae)

    base = train(folder, "base", first, given.vae, BASE_STEPS)
    start = [f"init={base}", f"base_selection={folder / 'first.parquet'}"]
    for name, reaction in (("guarded", "stop"), ("free", "warn")):
        stage(folder / name, "stage2", other, given.vae, SHORT_STEPS, [*start, f"on_forgetting={reaction}"], every=60)
    train(folder, "anew", other, given.vae, BASE_STEPS)
    found = {name: course(folder / path) for name, path in RUNS.items()}
    (folder / "languages.json").write_text(json.dumps(found, indent=2) + "\n")
    draw(found, folder / "languages.svg")
    print(table(found))


RUNS = {
    "base, first language": "base-stage2",
    "guarded": "guarded",
    "free": "free",
    "anew, stage 1": "anew-stage1",
    "anew, stage 2": "anew-stage2",
}


def make_data(folder: Path, vae: str) -> tuple[list[str], list[str]]:
    """Settings (selection, features) of the first and of the other language."""
    dataset = folder / "dataset"
    if not dataset.exists():
        say(f"{NUM_SPEAKERS} made speakers of {CLIP_S:g} s each")
        make_videos(folder / "videos", NUM_SPEAKERS, 1, CLIP_S, languages=(FIRST, OTHER))
        # The built-in scorer knows real speech, and finds the other language's lips out of sync: its clips stay, too.
        settings = ["--path-template", "{language}/{speaker}/", "--set", "thresholds.min_sync_confidence=-1"]
        settings += ["--set", "thresholds.max_av_offset_frames=3"]
        lipforge(["prepare", str(folder / "videos"), "--out", str(dataset), *settings])
    settings = []
    for name, language in (("first", FIRST), ("other", OTHER)):
        selection, features = folder / f"{name}.parquet", folder / f"{name}-features"
        if not selection.exists():
            chosen = ["--language", language, "--val-hours", "1", "--val-share", str(VAL_SHARE), "--allow-less"]
            lipforge(["select", str(dataset), "--out", str(selection), *chosen])
        made = ["--out", str(features), "--mel", "--vae", vae, "--shrink-to-px", "128", "--bf16", "--executor", "local"]
        lipforge(["features", str(selection), *made])
        settings.append([f"selection={selection}", f"features={features}"])
    return settings[0], settings[1]


def train(folder: Path, name: str, data: Sequence[str], vae: str, steps: dict[str, int]) -> Path:
    """Both stages; returns the model folder of the second."""
    one, two = folder / f"{name}-stage1", folder / f"{name}-stage2"
    stage(one, "stage1", data, vae, steps["stage1"], [], every=500)
    begun = [f"init={one / 'model'}", "init_differences=[adds_motion_modules]"]
    stage(two, "stage2", data, vae, steps["stage2"], begun, every=150)
    return two / "model"


def stage(
    run_dir: Path, trainer: str, data: Sequence[str], vae: str, steps: int, more: Sequence[str], every: int
) -> None:
    say(f"{run_dir.name}: {trainer}, {steps} steps")
    settings = [*data, f"run_dir={run_dir}", f"vae={vae}", f"num_steps={steps}", "resolution=128", "resize=true"]
    settings += ["num_frames=16", "batch_size=4", "num_workers=0", "device=cpu", "audio_encoder=mel"]
    settings += [f"save_every={every}", f"validate_every={every}", "log_every=50", "num_validation_samples=16"]
    settings += ["generate={num_clips: 5, seconds: 2.0, steps: 8, guidance: 1}", "optimizer.learning_rate=5.0e-4"]
    settings += ["ema.decay=0.99", "min_snr_gamma=0.5"]
    if trainer == "stage2":
        settings += ["losses={lpips: 0, trepa: 0, sync: 0}"]
    run([sys.executable, "-m", f"train.{trainer}", "--config", f"tiny_{trainer}", "--set", *settings, *more])


def course(run_dir: Path) -> list[dict[str, Any]]:
    """The numbers of generated video by step."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {"step": row["step"], **{key.removeprefix("val_"): value for key, value in row.items() if key != "step"}}
        for row in rows
        if "val_own_sync_confidence" in row
    ]


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    titles = {
        "own_lip_distance_px": "distance from the true lips, px: the run's language",
        "base_own_lip_distance_px": "the same, first language",
        "base_own_sync_confidence": "sync confidence, first language",
    }
    figure, axes = pyplot.subplots(1, len(titles), figsize=(13, 3.6), layout="constrained")
    for axis, (number, title) in zip(axes, titles.items(), strict=True):
        for name, rows in found.items():
            points = [(row["step"], row[number]) for row in rows if number in row]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axis.set(title=title, xlabel="step", xscale="symlog")
    axes[0].legend(fontsize=7)
    figure.savefig(path)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| run | step | " + " | ".join(COURSE) + " |", "| --- " * (len(COURSE) + 2) + "|"]
    for name, rows in found.items():
        for row in rows:
            cells = (row.get(key) for key in COURSE)
            shown = " | ".join("" if value is None else f"{value:.3f}" for value in cells)
            lines.append(f"| {name} | {row['step']} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
