"""Which spans of the sources are processed for an estimate, and in which order: pure.

All units are laid out in a row, alike ones side by side (language, then what decoding costs), and divided into slots of
about one span. Slots are visited by steps of the golden ratio: however far one gets, the visited ones are spread evenly
over the row, so each language and each kind of source gets its share.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Unit
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.sources.plan import cut_at_keys

WHOLE_S = 120.0
"""So much video, in all, is not sampled: its units are processed whole."""
CLIPS_IN_SPAN = 2
"""Length of a span, in the longest clips: a face that is seen throughout gives whole ones."""
_STEP = (5**0.5 - 1) / 2


def span_s(units: Sequence[Unit], config: PrepareConfig) -> float:
    """Length of the spans of a sample, in seconds. A unit of up to one and a half of it is taken whole."""
    total_s = sum(unit.num_frames for unit in units) / FPS
    return config.resample.max_span_s if total_s <= WHOLE_S else CLIPS_IN_SPAN * config.cut.max_clip_s


def megapixels_per_s(unit: Unit) -> float:
    """That decoding yields."""
    info = unit.video.info
    assert info is not None
    return info.width_px * info.height_px * info.mean_fps / 1e6


def sample_order(units: Sequence[Unit], length_s: float, seed: int = 0) -> Iterator[Unit]:
    """Spans of the units, each once, all in the end. Any beginning is a sample spread over them.

    Spans begin at key frames, as units do, so that no frame is decoded in vain. Where there are none for long, only the
    first length_s of the long stretch can be had cheaply, and stand for all of it.
    """
    rng = np.random.default_rng(seed)
    row = sorted(units, key=_alike)
    counts = np.array([max(1, round(unit.num_frames / FPS / length_s)) for unit in row], np.int64)
    firsts = np.concatenate([[0], np.cumsum(counts)])
    visits = np.argsort((np.arange(firsts[-1]) * _STEP + rng.random()) % 1.0, kind="stable")
    spans: dict[int, list[Unit]] = {}
    given: set[tuple[int, int]] = set()
    for slot in visits:
        at = int(np.searchsorted(firsts, slot, side="right")) - 1
        if at not in spans:
            spans[at] = _spans(row[at], length_s, rng)
        number = int(slot - firsts[at]) * len(spans[at]) // int(counts[at])
        if (at, number) not in given:
            given.add((at, number))
            yield spans[at][number]


def _alike(unit: Unit) -> tuple[str, str, float, str]:
    info, source = unit.video.info, unit.video.source
    assert info is not None
    return source.language, info.video_codec, megapixels_per_s(unit), unit.unit_id


def _spans(unit: Unit, length_s: float, rng: np.random.Generator) -> list[Unit]:
    """In random order, so that slots at the same place in the row are at other places of their units."""
    spans = cut_at_keys(unit.video, unit.start_frame, unit.end_frame, length_s)
    longest = round(length_s * FPS)
    cut = [s if s.num_frames <= 2 * longest else Unit(s.video, s.start_frame, s.start_frame + longest) for s in spans]
    return [cut[number] for number in rng.permutation(len(cut))]
