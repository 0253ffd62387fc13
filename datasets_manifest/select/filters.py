"""Filters of a request: which candidates pass each of them."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.language_tags import takes_any
from lipforge.datasets_manifest.parquet import parse_parquet
from lipforge.datasets_manifest.select.candidates import Candidates, Mask, positions
from lipforge.datasets_manifest.select.request import Request
from lipforge.datasets_manifest.storage.files import read_file


def masks_by_option(clips: Candidates, request: Request) -> dict[str, Mask]:
    """For each filter of the request, as its command-line option, which clips pass."""
    filters: dict[str, Mask] = {}
    if request.languages:
        filters[" ".join(f"--language {name}" for name in request.languages)] = language_mask(clips, request)
    for option, least, measured in (
        ("--min-sync", request.min_sync, clips.sync),
        ("--min-quality", request.min_quality, clips.quality),
        ("--min-face-px", request.min_face_px, clips.face_px),
        ("--min-clip-s", request.min_clip_s, clips.seconds),
    ):
        if least is not None:
            # In the column's own precision: a clip of exactly 3.1 passes 3.1.
            with np.errstate(over="ignore"):
                filters[f"{option} {least:g}"] = measured >= measured.dtype.type(least)
    if request.max_outside is not None:
        filters[f"--max-outside {request.max_outside:g}"] = clips.outside <= np.float32(request.max_outside)
    two_windows_fit = clips.frames >= 2 * request.window_frames
    if not two_windows_fit.all():
        filters[window_option(request)] = two_windows_fit
    if request.where is not None:
        filters[f'--where "{request.where}"'] = clips.where
    if request.exclude:
        excluded = pa.chunked_array([_keys_of(path) for path in request.exclude], pa.string())
        filters[" ".join(f"--exclude {path}" for path in request.exclude)] = positions(clips.keys, excluded) < 0
    return filters


def window_option(request: Request) -> str:
    """The filter that every request has, where it changes something."""
    return f"--window-frames {request.window_frames}"


def passing_all(clips: Candidates, filters: Mapping[str, Mask], but: str = "") -> Mask:
    """Which clips pass all filters, or all but one."""
    mask = np.ones(len(clips), dtype=bool)
    for name, passing in filters.items():
        if name != but:
            mask &= passing
    return mask


def language_mask(clips: Candidates, request: Request) -> Mask:
    """Which clips are in one of the request's languages."""
    ranges = request.languages
    return clips.language.where([takes_any(ranges, tag) for tag in clips.language.values], takes_any(ranges, None))


def _keys_of(path: str) -> pa.Array:
    try:
        return parse_parquet(read_file(path))["key"].cast(pa.string()).combine_chunks()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"nothing to exclude at {path}: expected a Parquet file with a column `key`") from error
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be excluded, expected a Parquet file with a column `key`: {error}") from error


def mixed_models(clips: Candidates, filters: Mapping[str, Mask], request: Request) -> str:
    """An error message when one threshold or order would compare scores of several models; empty otherwise."""
    for measure, least, scores, models in (
        ("sync", request.min_sync, clips.sync, clips.sync_model),
        ("quality", request.min_quality, clips.quality, clips.quality_model),
    ):
        option = f"--min-{measure} {least:g}" if least is not None else f"--order {measure}"
        if least is None and request.order != measure:
            continue
        rows = passing_all(clips, filters, but=option) & clips.in_shard & np.isfinite(scores)
        counts = np.bincount(models.codes[rows] + 1, minlength=len(models.values) + 1)
        found = {(["no name", *models.values])[i]: int(counts[i]) for i in np.flatnonzero(counts)}
        if len(found) > 1:
            listed = ", ".join(f"{name} ({counted(count, 'clip')})" for name, count in sorted(found.items()))
            return (
                f"{option} would compare scores of different models: {listed}. "
                f"Choose one, for example --where \"{measure}_model = '{max(found, key=lambda name: found[name])}'\""
            )
    return ""
