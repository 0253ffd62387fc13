"""The clips that the page plays: the best and the worst, beside their references."""

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av.error

from lipforge.datasets_manifest.language_tags import UNKNOWN
from lipforge.datasets_manifest.sample_media import poster_jpeg
from lipforge.pipeline.evaluate.best import media_path
from lipforge.pipeline.evaluate.page.words import MAIN, metric_named, shown, title_of, with_unit

log = logging.getLogger(__name__)

MAX_EACH = 6
MAX_MEDIA_BYTES = 7_500_000
"""All videos of the page together, before base64 adds a third: keeps the page below 12 MB."""
_FACTS = 4


@dataclass(frozen=True)
class Player:
    """One clip, ready to be played."""

    name: str
    about: list[str]
    """Language and speaker."""
    facts: list[tuple[str, str]]
    """Titles of metrics and numbers."""
    video: str | None
    """data: URIs."""
    poster: str | None
    reference: str | None
    reference_poster: str | None
    note: str | None
    """Why there is no video."""


@dataclass(frozen=True)
class Gallery:
    """What is shown, and by which number it was chosen."""

    best: list[Player]
    worst: list[Player]
    by: str | None
    """Title of the metric that ranks clips."""


def make_gallery(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Gallery:
    """Players of the clips whose videos lie in REPORT/media. No clip is among the best and the worst."""
    there = [row for row in rows if media_path(folder, row["file"]).is_file()]
    rank = next((name for name in ("sync_confidence", "st_lpips") if any(_has(row, name) for row in there)), None)
    if rank is None:
        return Gallery([], [], None)
    sign = -1 if rank == "sync_confidence" else 1
    there = sorted((row for row in there if _has(row, rank)), key=lambda row: sign * row[rank])
    num_worst = min(MAX_EACH, len(there) // 2)
    num_best = min(MAX_EACH, len(there) - num_worst)
    best, worst = there[:num_best], there[len(there) - num_worst :][::-1]
    budget = _Budget()
    players: dict[str, Player] = {}
    for index in range(max(num_best, num_worst)):  # in turn: if space runs out, both lose the same
        for row in (*best[index : index + 1], *worst[index : index + 1]):
            players[row["file"]] = _player(folder, row, budget)
    return Gallery(
        [players[row["file"]] for row in best],
        [players[row["file"]] for row in worst],
        metric_named(rank).title,
    )


class _Budget:
    """Bytes of media that the page may still take."""

    def __init__(self) -> None:
        self.left = MAX_MEDIA_BYTES

    def take(self, *files: bytes) -> bool:
        size = sum(map(len, files))
        if size > self.left:
            return False
        self.left -= size
        return True


def _player(folder: Path, row: Mapping[str, Any], budget: _Budget) -> Player:
    name = row["file"]
    facts = [
        (title_of(metric_named(metric)), with_unit(row[metric], metric_named(metric)))
        for metric in MAIN
        if _has(row, metric)
    ][:_FACTS]
    about = [shown(str(row[key])) for key in ("language", "speaker") if row.get(key) not in (None, UNKNOWN)]
    player = Player(shown(name), about, facts, None, None, None, None, None)
    video, reference = _read(media_path(folder, name)), _read(media_path(folder, name, reference=True))
    if video is None:
        return replace(player, note="Its video cannot be read.")
    files = [*video, *(reference or ())]
    if not budget.take(*files):
        return replace(player, note="Left out to keep this page small.")
    player = replace(player, video=_uri("video/mp4", video[0]), poster=_uri("image/jpeg", video[1]))
    if reference is None:
        return player
    return replace(player, reference=_uri("video/mp4", reference[0]), reference_poster=_uri("image/jpeg", reference[1]))


def _read(path: Path) -> tuple[bytes, bytes] | None:
    """A video and its still, or None where there is none that plays."""
    try:
        video = path.read_bytes()
        return video, poster_jpeg(video)
    except FileNotFoundError:
        return None
    except (ValueError, av.error.FFmpegError) as error:
        log.warning("%s: cannot show it: %s", path, error)
        return None


def _has(row: Mapping[str, Any], metric: str) -> bool:
    return row.get(metric) is not None


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
