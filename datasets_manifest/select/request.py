"""What a user asks for and gets: the request, the selection, and the error when there is too little."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from lipforge.datasets_manifest.language_tags import LanguageError, canonical_language
from lipforge.datasets_manifest.selection import selection_request
from lipforge.datasets_manifest.storage.files import open_place

ORDERS = ("random", "sync", "quality")


class NotEnoughDataError(ValueError):
    """Fewer hours pass the filters than were asked for."""


@dataclass(frozen=True)
class Request:
    """What to choose. Raises ValueError for values that make no sense."""

    datasets: tuple[str, ...]
    """Folders or fsspec URLs. A clip that several hold counts once: the copy in the first root by name."""
    languages: tuple[str, ...] = ()
    """Any of these, in any spelling (zh_CN, eng); empty: all. `zh` also takes `zh-CN` and `cmn`, `und` is unknown: see
    language_tags.takes_along. Kept as canonical tags, sorted."""
    hours: float | None = None
    """Hours of training data; None: everything that passes."""
    val_hours: float = 0.0
    """Additional hours of validation data, of speakers who are not in training."""
    val_share: float = 0.1
    """Share of speakers, by hash of the name, reserved for validation when val_hours is more than 0."""
    min_sync: float | None = None
    """Lowest sync_confidence, on the scale of the clips' one sync_model."""
    min_quality: float | None = None
    """Lowest quality, on the scale of the clips' one quality_model."""
    min_face_px: float | None = None
    """Lowest native face height, pixels of the source."""
    max_outside: float | None = None
    """Highest outside_ratio."""
    min_clip_s: float | None = None
    """Shortest clip."""
    window_frames: int = 16
    """Frames of a training window at 25 fps: clips that cannot hold two of them are not taken, as trainers refuse them.
    16: LatentSync's, and that of most shipped presets; the others have shorter ones."""
    max_hours_per_speaker: float | None = None
    """Most hours of one speaker. A clip without a speaker counts its source as one."""
    where: str | None = None
    """SQL condition over the columns of the manifest."""
    exclude: tuple[str, ...] = ()
    """Parquet files with a column `key`, for example selections, whose clips are not taken."""
    order: str = "random"
    """Which clips first: `random` by seed and key, `sync` or `quality` best first."""
    seed: int = 0
    allow_less: bool = False
    """Accept fewer hours than asked for."""

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ValueError("no dataset given: name at least one")
        for place in self.datasets:
            if place != place.encode("utf-8", "replace").decode():
                raise ValueError(f"{place!r} is not valid UTF-8 and cannot be named in a selection: link or rename it")
        object.__setattr__(self, "languages", self._canonical_languages())
        for name in ("hours", "max_hours_per_speaker"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}: expected more than 0")
        if not 0 <= self.val_hours < math.inf:
            raise ValueError(f"val_hours is {self.val_hours}: expected 0 or more")
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share is {self.val_share}: expected more than 0 and less than 1")
        if self.window_frames < 1:
            raise ValueError(f"window_frames is {self.window_frames}: expected 1 or more")
        for name in ("min_sync", "min_quality", "min_face_px", "max_outside", "min_clip_s"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}: expected a number")
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}: expected {', '.join(ORDERS)}")

    def _canonical_languages(self) -> tuple[str, ...]:
        try:
            return tuple(sorted({canonical_language(label) for label in self.languages}))
        except LanguageError as error:
            raise ValueError(f"language {error}") from error

    def as_json(self) -> dict[str, Any]:
        """The same for all requests that mean the same: full roots of datasets, sorted lists."""
        return {
            **asdict(self),
            "languages": list(self.languages),
            "exclude": sorted(set(self.exclude)),
            "datasets": list(self.roots()),
        }

    def roots(self) -> tuple[str, ...]:
        """Where the datasets lie, each once, sorted: absolute paths and URLs."""
        return tuple(sorted({place if "://" in place else open_place(place)[1] for place in self.datasets}))


@dataclass(frozen=True)
class Selection:
    """The chosen rows with SELECTION_COLUMNS, and what the user should know about them."""

    table: pa.Table
    notes: Sequence[str]

    @property
    def about(self) -> dict[str, Any]:
        """version, lipforge, request, gave."""
        return selection_request(self.table)
