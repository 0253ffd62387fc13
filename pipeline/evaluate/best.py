"""Videos of the best and the worst clips, kept while all are judged, for people to look at."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.pipeline.evaluate.clip import AlignedClip
from lipforge.pipeline.evaluate.one import Judged, upright
from lipforge.pipeline.media.shown import write_shown

MEDIA = "media"
EACH = 6
"""Best ones, and as many worst ones."""
_LONGEST_NAME = 240
"""Bytes; file systems take 255, and something is added."""


def media_path(report: Path, name: str, *, reference: bool = False) -> Path:
    """Where the video of a clip, or its reference, is kept. name: the clip's."""
    folder, base = os.path.split(name)
    if len(os.fsencode(base)) > _LONGEST_NAME:
        base = hashlib.sha256(os.fsencode(base)).hexdigest()
    return report / MEDIA / ("references" if reference else "videos") / folder / f"{base}.mp4"


class Best:
    """REPORT/media/videos/NAME.mp4 and media/references/NAME.mp4 of those that lead or trail so far."""

    def __init__(self, report: Path, rows: Iterable[dict[str, Any]]) -> None:
        """rows: of an earlier run that was stopped."""
        self.report = report
        self._values: dict[str, tuple[float, float]] = {}
        for row in rows:
            rank = _rank(row)
            if rank is not None and media_path(self.report, row["file"]).is_file():
                self._values[row["file"]] = rank

    def add(self, row: dict[str, Any], judged: Judged) -> None:
        rank = _rank(row)
        if rank is None or judged.clip is None:
            return
        self._values[row["file"]] = rank
        ordered = sorted(self._values, key=lambda name: self._values[name])
        for name in ordered[EACH:-EACH]:
            del self._values[name]
            if name != row["file"]:
                for reference in (False, True):
                    media_path(self.report, name, reference=reference).unlink(missing_ok=True)
        if row["file"] in self._values:
            _write(media_path(self.report, row["file"]), judged.clip)
            if judged.reference is not None:
                _write(media_path(self.report, row["file"], reference=True), judged.reference)


def _rank(row: dict[str, Any]) -> tuple[float, float] | None:
    """By sync confidence; those without one come first, by how unlike their reference they are."""
    if row.get("sync_confidence") is not None:
        return 1.0, row["sync_confidence"]
    if row.get("st_lpips") is not None:
        return 0.0, -row["st_lpips"]
    return None


def _write(path: Path, clip: AlignedClip) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    margin = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
    temporary = path.with_name(f".tmp-{path.name}")
    write_shown(temporary, upright(clip.frames), clip.audio[margin:-margin])
    temporary.replace(path)
