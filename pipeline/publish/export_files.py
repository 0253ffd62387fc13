"""Export a selection as files: one MP4 with its own sound for each clip, and the lists that other trainers read.

Pictures and sound are copied out of the verified sample, never encoded again. The FLAC stream stays FLAC, inside the
MP4: decord 0.6, PyAV, OpenCV, ffmpeg 4 to 9 and browsers read exactly the samples that went in, where AAC comes back
longer or 1,024 samples late. How trainers read the folder: docs/export_files.md.

As with an export as a dataset, what to export is recorded first, and each group of files is followed by its record. So
it may be stopped anywhere, and the same command continues it and ends with the same bytes.
"""

import hashlib
import io
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
import pyarrow as pa
from pyarrow import csv

from lipforge.datasets_manifest.language_tags import with_canonical_languages
from lipforge.datasets_manifest.sample_media import playable_mp4
from lipforge.datasets_manifest.selection import SPLITS, read_selection
from lipforge.datasets_manifest.storage.files import to_json
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.clock import FPS
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.ledger.settings import EXPORT_RECORD, writing
from lipforge.pipeline.publish.export import (
    AT_ONCE,
    Origin,
    Progress,
    check_sources,
    export_record,
    find_origins,
    read_sample,
    require_own,
)
from lipforge.pipeline.publish.tasks import Mapper

CLIPS_NAME = "clips.csv"
"""In the folder: one row for each clip, written last."""
CLIP_COLUMNS = (
    "key",
    "split",
    "language",
    "language_source",
    "speaker",
    "speaker_source",
    "num_frames",
    "duration_s",
    "crop_px",
    "av_offset_frames",
    "sync_confidence",
    "sync_model",
    "quality",
    "quality_model",
    "speech_ratio",
    "face_size_px",
    "source_uri",
    "source_id",
    "start_s",
    "end_s",
    "dataset",
)
"""Columns of the manifest in CLIPS_NAME. The offset was found in the source; in the file it is corrected to 0."""

_GROUP = 100  # files that share a record
_SAFE_NAME = re.compile("[0-9a-z][0-9a-z_-]{0,127}")  # lower case: some file systems take a.mp4 and A.mp4 for one
_README = """\
{clips} talking-head clips for lip-sync training, made by `lipforge export --as files`.

  train/KEY.mp4, val/KEY.mp4   H.264, 25 fps, a square face crop; FLAC sound, mono, 16 kHz, in time to the sample
  train.txt, val.txt           the same files, one path per line
  clips.csv                    language, speaker, frames, scores, source and sha256 of each; val has other speakers
  lists/                       the lists of Wav2Lip and MuseTalk
  ledger/                      where the clips come from, and what the same command needs to continue

av_offset_frames in clips.csv was found in the source. It is corrected: in these files it is 0.

LatentSync     data.train_fileslist: {root}/train.txt
               (for train_unet, train_data_dir: {root}/train does the same and survives a move)
Wav2Lip        python preprocess.py --data_root {root} --preprocessed_root PRE
               cp {root}/lists/wav2lip/*.txt filelists/    then train with --data_root PRE
               Its ffmpeg runs in a shell: the path of this folder must have no space or other special character.
MuseTalk       configs/training/preprocess.yaml: video_root_raw and video_root_25fps: two empty folders,
               video_audio_clip_root: {root}/train
               Then nothing is converted or cut, which would encode again and delay the sound by 64 ms. Its WAV files
               go beside the clips. Afterwards
               cp {root}/lists/musetalk/*.txt dataset/HDTF/    (its reader skips the first line)
{moved}"""


@dataclass(frozen=True)
class ExportedFiles:
    """Size of an export as files."""

    clips: int
    hours: float
    size_bytes: int
    """Of its MP4s."""


@dataclass(frozen=True)
class _Clip:
    key: str
    split: str
    num_frames: int
    origin: Origin

    @property
    def name(self) -> str:
        return f"{self.split}/{self.key}.mp4"


Written = tuple[int, str]
"""Bytes and sha256 of a file."""


def export_files(
    selection: str, out: str, progress: Progress = lambda done, total: None, run_map: Mapper = map
) -> ExportedFiles:
    """Copy the clips of a selection into a folder of MP4s; both may be fsspec URLs. Safe to stop and to repeat.

    progress: called with (clips written, clips in all). run_map: who copies; a group of files is one item.
    Raises ValueError for a selection or a folder that this cannot be done with; FileNotFoundError when a shard is gone;
    DatasetError when `out` holds something else or has too little space, or when a sample is damaged.
    """
    if not out:
        raise ValueError("--out is empty; name a folder")
    if "\n" in out or "\r" in out:
        raise ValueError(f"--out is {out!r}: a list of files cannot hold a path with a line break")
    rows = with_canonical_languages(read_selection(selection))
    clips = _clips(rows, selection)
    store = Store(out)
    record = export_record(selection, rows, media="h264 and flac in mp4", exported_as="files")
    require_own(store, record)  # before anything is made there
    groups = _groups(clips)
    with writing(store):
        require_own(store, record)
        there = _already_written(store, groups)
        missing = [clip for clip in clips if clip.name not in there]
        check_sources(rows, [clip.key for clip in missing], selection)
        _require_space(store, sum(clip.origin.size for clip in missing))
        store.write(EXPORT_RECORD, to_json(record))
        done = len(clips) - len(missing)
        progress(done, len(clips))
        tasks = [
            _Group(
                name,
                [clip for clip in group if clip.name not in there],
                {clip.name: there[clip.name] for clip in group if clip.name in there},
            )
            for name, group in groups.items()
        ]
        for written in run_map(_GroupWriter(store), [task for task in tasks if task.wanted]):
            there |= written
            done += len(written)
            progress(done, len(clips))
        _write_lists(store, clips, rows, there)
    hours = sum(rows["duration_s"].to_pylist()) / 3600
    return ExportedFiles(len(clips), hours, sum(size for size, _ in there.values()))


# --- what to write ---


def _clips(rows: pa.Table, selection: str) -> list[_Clip]:
    """In the selection's order. Raises ValueError for a key that is no file's name."""
    _, origins = find_origins(rows, selection)
    columns = (rows[name].to_pylist() for name in ("key", "split", "num_frames"))
    clips = [_Clip(key, split, frames, origins[key]) for key, split, frames in zip(*columns, strict=True)]
    bad = next((clip.key for clip in clips if not _SAFE_NAME.fullmatch(clip.key)), None)
    if bad is not None:
        raise ValueError(f"{selection}: clip {bad!r} was not made by lipforge, whose keys are lower-case hex digits")
    return clips


def _groups(clips: list[_Clip]) -> dict[str, list[_Clip]]:
    """Files by the record that they share."""
    ordered = sorted(clips, key=lambda clip: clip.name)
    firsts = range(0, len(ordered), _GROUP)
    return {f"ledger/files/{number:06d}.json": ordered[i : i + _GROUP] for number, i in enumerate(firsts)}


def _already_written(store: Store, groups: dict[str, list[_Clip]]) -> dict[str, Written]:
    """Size and hash of each file that has a record and is as long as it says."""
    sizes = {name: size for split in SPLITS for name, size in store.sizes(split).items()}
    there = {}
    for name, group in groups.items():
        try:
            recorded = json.loads(store.read(name))["files"]
            found = {clip.name: (int(recorded[clip.name][0]), str(recorded[clip.name][1])) for clip in group}
        except (FileNotFoundError, ValueError, KeyError, TypeError, IndexError):  # stopped before it, or damaged
            continue
        there |= {name: written for name, written in found.items() if sizes.get(name) == written[0]}
    return there


def _require_space(store: Store, size_bytes: int) -> None:
    """Raises DatasetError when a local disk cannot take so many bytes more."""
    if not store.is_local:
        return
    free = shutil.disk_usage(store.path("")).free
    if free < size_bytes:
        raise DatasetError(
            f"{store.root} needs {size_bytes / 1e9:.1f} GB more, and the disk has {free / 1e9:.1f} GB: make room, "
            "export to another disk, or select fewer hours"
        )


# --- files ---


@dataclass(frozen=True)
class _Group:
    """Files that share a record."""

    name: str
    """Of the record."""
    wanted: list[_Clip]
    """Those to be written."""
    there: dict[str, Written]
    """The others."""


class _GroupWriter:
    """Writes the files of a group that are wanted, in any process, then its record. Returns what it wrote, by name."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, group: _Group) -> dict[str, Written]:
        sources = {clip.origin.dataset: Store(clip.origin.dataset) for clip in group.wanted}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(lambda clip: self._write(sources[clip.origin.dataset], clip), group.wanted)
            written = dict(zip((clip.name for clip in group.wanted), found, strict=True))
        self.store.write(group.name, to_json({"files": group.there | written}))
        return written

    def _write(self, source: Store, clip: _Clip) -> Written:
        """Writes one clip's file, whole or not at all."""
        _, members = read_sample(source, clip.key, clip.origin)
        try:
            mp4 = playable_mp4(members["mp4"], members["flac"])
            _check_clock(mp4, clip.num_frames)
        except (av.error.FFmpegError, ValueError) as error:
            raise DatasetError(
                f"clip {clip.key} of {source.path(clip.origin.shard)} cannot be exported: {error}. Leave it out: "
                f"--where \"key <> '{clip.key}'\""
            ) from error
        self.store.write(clip.name, mp4)
        return len(mp4), hashlib.sha256(mp4).hexdigest()


def _check_clock(mp4: bytes, num_frames: int) -> None:
    """Raises ValueError unless pictures and sound start at 0, have no gap, and last for exactly these 25 fps frames."""
    ends = {}
    with av.open(io.BytesIO(mp4), "r", format="mp4") as container:
        for packet in container.demux():
            if packet.dts is None:
                continue
            kind, tick = packet.stream.type, packet.time_base
            end = ends.get(kind, Fraction(0))
            if packet.pts is None or tick is None or packet.pts * tick != end:
                raise ValueError(f"its {kind} has a gap at {float(end):.3f} s")
            length = (packet.duration or 0) * tick
            if kind == "video" and length != Fraction(1, FPS):
                raise ValueError(f"its pictures are not at {FPS} fps")
            ends[kind] = end + length
    wanted = Fraction(num_frames, FPS)
    wrong = {kind: float(ends.get(kind, 0)) for kind in ("video", "audio") if ends.get(kind) != wanted}
    if wrong:
        lengths = " and ".join(f"{seconds:.4f} s of {kind}" for kind, seconds in wrong.items())
        raise ValueError(f"it has {lengths}, and should have {float(wanted):.2f} s: {num_frames} frames")


# --- lists ---


def _write_lists(store: Store, clips: list[_Clip], rows: pa.Table, written: dict[str, Written]) -> None:
    """Lists of each split in the selection's order, then README, then the clips' table."""
    for split in SPLITS:
        here = [clip for clip in clips if clip.split == split]
        if here:
            _write_lines(store, f"{split}.txt", [store.path(c.name) if store.is_local else c.name for c in here])
            _write_lines(store, f"lists/wav2lip/{split}.txt", [f"{split}/{clip.key}" for clip in here])
            _write_lines(store, f"lists/musetalk/{split}.txt", ["name", *(f"{clip.key}.json" for clip in here)])
    moved = "The lists hold the full path of this folder: after a move, run the same command with the new --out.\n"
    if not store.is_local:
        moved = "train.txt and val.txt are relative to the folder: put its path before each line once it is copied.\n"
    root = store.path("").rstrip("/") if store.is_local else "FOLDER"
    store.write("README.txt", os.fsencode(_README.format(clips=f"{len(clips):,}", root=root, moved=moved)))
    store.write(CLIPS_NAME, _table(clips, rows, written))


def _write_lines(store: Store, name: str, lines: list[str]) -> None:
    store.write(name, b"".join(os.fsencode(line) + b"\n" for line in lines))


def _table(clips: list[_Clip], rows: pa.Table, written: dict[str, Written]) -> bytes:
    """CSV in the order of the rows: file, size and hash before CLIP_COLUMNS."""
    files = [(clip.name, *written[clip.name]) for clip in clips]
    columns = dict(
        zip(("file", "size_bytes", "sha256"), (list(values) for values in zip(*files, strict=True)), strict=True)
    )
    table = pa.table({**columns, **{name: rows[name] for name in CLIP_COLUMNS}})
    buffer = io.BytesIO()
    csv.write_csv(table, buffer)
    return buffer.getvalue()
