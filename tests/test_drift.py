"""Audio that runs at another speed than the video is measured, and refused as `av_drift`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.model.sync.drift import drift_frames
from lipforge.model.sync.syncnet_v2 import sync_score
from tests.conftest import run_prepare
from tests.media import BASE_DURATION_S
from tests.sounds import drifting

NUM_FRAMES = 160
ROWS = NUM_FRAMES - 12


def ridge(drift: float, offset: float = 0.0, noise: float = 0.05, width: float = 1.5) -> np.ndarray:
    """float [T, 31]: similarities that are high along a line, whose offset is `offset` in the middle of the clip."""
    times = (np.arange(ROWS) - (ROWS - 1) / 2) / NUM_FRAMES
    line = 15 + offset + drift * times
    high = np.exp(-0.5 * ((np.arange(31) - line[:, None]) / width) ** 2)
    return 0.1 + 0.5 * high + np.random.default_rng(0).normal(0, noise, (ROWS, 31))


def always(similar: np.ndarray) -> bool:
    return True


@pytest.mark.parametrize("offset", [-5.0, 0.0, 2.5])
@pytest.mark.parametrize("drift", [-8.0, -4.0, 4.0, 6.0, 9.0])
def test_the_drift_is_found_at_any_offset(drift: float, offset: float) -> None:
    assert drift_frames(ridge(drift, offset), NUM_FRAMES, always) == pytest.approx(drift, abs=0.5)


@pytest.mark.parametrize("drift", [-1.6, -1.0, -0.3, 0.0, 0.5, 1.6])
def test_what_stays_within_a_frame_is_none(drift: float) -> None:
    assert drift_frames(ridge(drift, 1.5), NUM_FRAMES, always) == 0


def test_the_lines_are_straightened_before_they_are_judged() -> None:
    seen: list[np.ndarray] = []

    def judge(similar: np.ndarray) -> bool:
        seen.append(similar)
        return False

    assert drift_frames(ridge(6.0), NUM_FRAMES, judge) == 0  # no match, so nothing is certain
    (straight,) = seen
    assert straight.shape == (ROWS, 31)
    for part in np.array_split(straight, 4):
        assert abs(int(part.mean(axis=0).argmax()) - 15) <= 1


@pytest.mark.parametrize(
    "similar",
    [
        np.zeros((ROWS, 31)),  # silence
        np.full((1, 31), 0.3),  # one row
        np.random.default_rng(0).normal(0, 0.1, (2, 31)),
    ],
)
def test_nothing_drifts_where_nothing_stands_out(similar: np.ndarray) -> None:
    assert drift_frames(similar, len(similar) + 12, lambda _: False) == 0


def test_both_scorers_find_it() -> None:
    """SyncNet's distances, made so that they are least along a line."""
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.normal(size=(NUM_FRAMES + 60, 64)), axis=0)
    sound = torch.from_numpy(steps[15 : 15 + NUM_FRAMES + 30] * 0.8).float()
    times = np.arange(NUM_FRAMES) / NUM_FRAMES - 0.5
    for drift in (0.0, 5.0):
        where = 30 + np.arange(NUM_FRAMES) - np.rint(drift * times).astype(int)
        score = sync_score(torch.from_numpy(steps[where] * 0.8).float(), sound)
        assert score.drift_frames == pytest.approx(drift, abs=0.5)
        assert score.offset_frames == 0


PERCENT = (-5.0, -2.5, -1.0, 1.0, 2.5, 5.0)


def test_clips_that_drift_are_refused_and_those_within_a_frame_are_kept(
    talking_clip: Path, tmp_path: Path, models: dict[str, bytes]
) -> None:
    paths = {percent: drifting(talking_clip, tmp_path / f"{percent}.mp4", percent) for percent in PERCENT}
    run_prepare([str(path) for path in paths.values()], tmp_path / "dataset")
    rows = {row["source_uri"]: row for row in read_manifest(str(tmp_path / "dataset")).to_pylist()}
    for percent, path in paths.items():
        row = rows[str(path)]
        if abs(percent) <= 1:
            assert row["status"] == "kept" and row["av_drift_frames"] == 0
        else:
            true = percent / 100 * BASE_DURATION_S * 25
            assert (row["status"], row["stage"], row["reason"]) == ("rejected", "measure_sync", "av_drift")
            assert row["av_drift_frames"] == pytest.approx(true, abs=1.5)
            assert f"{row['av_drift_frames']:+.1f} frames" in row["detail"]
