"""The whole way in minutes, on a CPU and without a download: videos, dataset, SyncNet, stage 1, stage 2.

python -m benchmarks.train_demo demo/train

Talking videos are made, prepared and selected; a small SyncNet learns whether lips and sound match, is killed on the
way and goes on; stage 1 and stage 2 go through the same trainers as the large ones. Everything stays in the folder, and
what is there is not done again.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.commands import lipforge, run, say
from benchmarks.planted_shifts import find_planted, in_words
from tests.made_speakers import make_videos

NUM_SPEAKERS, CLIP_S = 24, 10.0
VAL_SHARE = 0.34
SYNCNET_STEPS, DIFFUSION_STEPS = 500, 20
KILLED_AFTER_STEP = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    selection = folder / "selection.parquet"
    if not selection.exists():
        make_data(folder, selection)

    shared = [f"selection={selection}"]
    syncnet = [*shared, f"run_dir={folder / 'syncnet'}", f"num_steps={SYNCNET_STEPS}", "num_workers=1"]
    syncnet += ["save_every=50", "validate_every=50", "log_every=10", "num_validation_samples=64"]
    if not (folder / "syncnet" / "checkpoints").exists():
        say(f"SyncNet, killed after step {KILLED_AFTER_STEP}")
        train_and_kill("syncnet", syncnet, folder / "syncnet", KILLED_AFTER_STEP)
    say("SyncNet, the same command again")
    train("syncnet", syncnet)
    found = find_planted(str(folder / "syncnet" / "model"), str(selection))
    print(in_words(found))

    say("stage 1: the U-Net learns to predict noise")
    steps = [f"num_steps={DIFFUSION_STEPS}", "save_every=10", "validate_every=10"]
    train("stage1", [*shared, f"run_dir={folder / 'stage1'}", *steps])
    say("stage 2: motion modules and attention, judged by that SyncNet among others")
    begun = [f"init={folder / 'stage1' / 'model'}", "init_differences=[adds_motion_modules]"]
    judge = f"syncnet={folder / 'syncnet' / 'model'}"
    train("stage2", [*shared, f"run_dir={folder / 'stage2'}", judge, *begun, *steps])
    draw(folder)
    print(f"\ncurves: {folder / 'curves.png'}; samples: {folder / 'stage2' / 'pictures'}")


def make_data(folder: Path, selection: Path) -> None:
    say(f"{NUM_SPEAKERS} made speakers of {CLIP_S:g} s each")
    make_videos(folder / "videos", NUM_SPEAKERS, 1, CLIP_S)
    say("prepare")
    labels = ["--path-template", "{language}/{speaker}/"]
    lipforge(["prepare", str(folder / "videos"), "--out", str(folder / "dataset"), *labels])
    say("select, with speakers held out")
    chosen = ["--val-hours", "1", "--val-share", str(VAL_SHARE), "--allow-less"]
    lipforge(["select", str(folder / "dataset"), "--out", str(selection), *chosen])


def train(trainer: str, settings: Sequence[str]) -> None:
    run(command(trainer, settings))


def train_and_kill(trainer: str, settings: Sequence[str], run_dir: Path, step: int) -> None:
    """As a machine that goes down: `kill -9` once a checkpoint of that step is there."""
    process = subprocess.Popen(command(trainer, settings))
    checkpoint = run_dir / "checkpoints" / f"step-{step:08d}"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.2)
    if process.poll() is not None:
        sys.exit(f"{trainer} ended before step {step}: exit code {process.returncode}")
    process.send_signal(signal.SIGKILL)
    process.wait()


def command(trainer: str, settings: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", f"train.{trainer}", "--config", f"tiny_{trainer}", "--set", *settings]


def draw(folder: Path) -> None:
    """Losses by step, of training and validation, into curves.png."""
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    for axis, trainer in zip(axes, ("syncnet", "stage1", "stage2"), strict=True):
        rows = [json.loads(line) for line in (folder / trainer / "metrics.jsonl").read_text().splitlines()]
        for name, label in (("loss", "training"), ("val_loss", "held-out speakers")):
            points = [(row["step"], row[name]) for row in rows if name in row]
            axis.plot(*zip(*points, strict=True), label=label)
        axis.set(title=trainer, xlabel="step", ylabel="loss")
    axes[0].axhline(0.693, color="grey", linestyle=":", label="chance")
    axes[0].legend()
    figure.savefig(folder / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
