"""Metrics of a whole set, FID and FVD: features are kept clip by clip, and become moments at the end."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lipforge.model.measures.frechet import Features, frechet_distance
from lipforge.pipeline.evaluate.judge import Judge
from lipforge.pipeline.evaluate.one import Judged
from lipforge.pipeline.evaluate.result import ALL, Number
from lipforge.pipeline.infer.work import write_whole

_VIDEO, _REFERENCE = "video", "reference"


def keep_features(path: Path, judge: Judge, judged: Judged) -> None:
    """Write what a clip and its reference add to the sets, where both are there."""
    if judged.clip is None or judged.reference is None:
        return
    arrays: dict[str, Any] = {
        f"{metric}.{side}": rows
        for side, clip in ((_VIDEO, judged.clip), (_REFERENCE, judged.reference))
        for metric, rows in judge.features(clip).items()
    }
    if arrays:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_whole(path, buffer.getvalue())


def set_numbers(paths: Iterable[Path]) -> list[Number]:
    """FID and FVD of all clips whose features were kept. They have no interval. n: frames, or windows, of each side."""
    sets: dict[str, Features] = {}
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for name in arrays.files:
                    sets.setdefault(name, Features(arrays[name].shape[1])).add(arrays[name])
        except FileNotFoundError:
            continue
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise ValueError(f"{path} is damaged: remove it, and run the same command again") from error
    found = []
    for metric in sorted({name.partition(".")[0] for name in sets}):
        video, reference = sets[f"{metric}.{_VIDEO}"], sets[f"{metric}.{_REFERENCE}"]
        if min(video.count, reference.count) < 2:
            found.append(Number(metric, ALL, video.count, None, unmeasured={"fewer than 2 windows": 1}))
        else:
            found.append(Number(metric, ALL, video.count, frechet_distance(video, reference)))
    return found
