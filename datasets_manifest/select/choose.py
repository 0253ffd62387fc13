"""Chooses clips: so many hours of a language, well enough in sync, not too much of one person, the same ones every time.

Nothing is measured again: thresholds cut the measures that the manifest holds. First the few columns that decide are read of
every clip, then all columns of the chosen ones.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.manifest import DICTIONARIES, ManifestError, open_manifest, plain_arrow_errors
from lipforge.datasets_manifest.parquet import parse_parquet
from lipforge.datasets_manifest.query import connect
from lipforge.datasets_manifest.schema import COLUMNS, Reason, Status
from lipforge.datasets_manifest.select.where import Condition, parse_condition
from lipforge.datasets_manifest.selection import (
    SELECTION_COLUMNS,
    selection_request,
    with_request,
)
from lipforge.datasets_manifest.storage.files import open_place, read_file

ORDERS = ("random", "sync", "quality")
TOLERANCE = 0.01
"""Hours may miss what was asked for by this share, or by one clip."""
DECIDING = (*DICTIONARIES, "key", "duration_s", "sync_confidence", "quality", "face_size_px")
LOOSER = {Reason.LOW_SYNC_CONFIDENCE: "min_sync_confidence", Reason.LOW_QUALITY: "min_quality"}
"""What a dataset's own threshold refused, and the threshold's name for `lipforge pack --set`. Media of these is in no shard."""
IN_SHARD = (pc.field("status") == Status.KEPT) & pc.field("shard").is_valid()

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


class NotEnoughDataError(ValueError):
    """Fewer hours pass the filters than were asked for."""


@dataclass(frozen=True)
class Request:
    """What to choose. Raises ValueError for values that cannot be meant."""

    datasets: tuple[str, ...]
    """Folders or fsspec URLs. A clip that several hold counts once: the copy in the first root, in the order of their names."""
    languages: tuple[str, ...] = ()
    """Any of these; upper and lower case are the same, `zh` also takes `zh-CN` (RFC 4647, basic filtering), `und` is unknown. Empty: all."""
    hours: float | None = None
    """Hours of training data; None: all there is."""
    val_hours: float = 0.0
    """Hours of validation data on top, of people who are not in training."""
    val_share: float = 0.1
    """Share of people, by hash of the name, who are kept for validation when val_hours is more than 0."""
    min_sync: float | None = None
    """Least sync_confidence, on the scale of the clips' one sync_model."""
    min_quality: float | None = None
    """Least quality, on the scale of the clips' one quality_model."""
    min_face_px: float | None = None
    """Least native face height, pixels of the source."""
    max_hours_per_speaker: float | None = None
    """Most hours of one person. A clip without a speaker counts as spoken by its source."""
    where: str | None = None
    """SQL condition over the columns of the manifest."""
    exclude: tuple[str, ...] = ()
    """Parquet files with a column `key`, for example selections: none of their clips."""
    order: str = "random"
    """Which clips first: `random` by seed and key, `sync` or `quality` best first."""
    seed: int = 0
    allow_less: bool = False
    """Take what there is when there is less than asked for."""

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ValueError("no dataset given: name at least one")
        for place in self.datasets:
            if place != place.encode("utf-8", "replace").decode():
                raise ValueError(f"{place!r} is not valid UTF-8 and cannot be named in a selection: link or rename it")
        for name in ("hours", "max_hours_per_speaker"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}: expected more than 0")
        if not 0 <= self.val_hours < math.inf:
            raise ValueError(f"val_hours is {self.val_hours}: expected 0 or more")
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share is {self.val_share}: expected more than 0 and less than 1")
        for name in ("min_sync", "min_quality", "min_face_px"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}: expected a number")
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}: expected {', '.join(ORDERS)}")

    def as_json(self) -> dict[str, Any]:
        """In one form for requests that mean the same: roots of datasets in full, lists sorted."""
        lists = {"languages": sorted({_range(name) for name in self.languages}), "exclude": sorted(set(self.exclude))}
        return {**asdict(self), **lists, "datasets": list(self.roots())}

    def roots(self) -> tuple[str, ...]:
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


def select(datasets: Sequence[str], **wanted: Any) -> pa.Table:
    """Choose clips of one or more datasets, for example `select(["dataset"], languages=["hi"], hours=20, min_sync=4)`.

    wanted: the fields of Request. Returns SELECTION_COLUMNS, train before val, each in the order of taking, with the
    request in the schema's metadata. The same clips and request give the same table, however the rows were stored.

    Raises NotEnoughDataError, ManifestError (damaged, or of another version), FileNotFoundError (no dataset, no file to
    exclude), ValueError for a request that makes no sense or that would compare scores of different models.
    """
    for name in ("languages", "exclude"):
        if isinstance(wanted.get(name), str):
            raise ValueError(f"{name} is a list: [{wanted[name]!r}]")
        wanted[name] = tuple(wanted.get(name) or ())
    return choose(Request(datasets=tuple(datasets), **wanted)).table


def choose(request: Request) -> Selection:
    """What select() returns, with notes."""
    clips = Candidates.load(request.roots(), None if request.where is None else parse_condition(request.where))
    filters = _filters(clips, request)
    if mixed := _mixed_models(clips, filters, request):
        raise ValueError(mixed)
    passing = _all(filters, len(clips.seconds))
    pools = _pools(clips, passing & clips.in_shard, request)
    wanted = {"train": request.hours, "val": request.val_hours}
    for split, pool in pools.items():
        _refuse_too_little(clips, filters, split, pool, wanted[split], request)
    taken = {split: _first_hours(clips, pool, wanted[split]) for split, pool in pools.items()}
    table = with_request(_fetch(request.roots(), clips, taken), request.as_json())
    return Selection(table, _notes(clips, passing, table, request))


# --- reading what decides


@dataclass(frozen=True)
class Words:
    """A text column: for each row an index into `values`, -1 for null."""

    codes: NDArray[np.int32]
    values: list[str]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Words":
        """column: a dictionary column with one dictionary for all chunks."""
        values = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
        codes = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in column.chunks]
        return cls(np.concatenate(codes) if codes else np.zeros(0, np.int32), values)

    def are(self, good: Sequence[bool], null: bool) -> Mask:
        """For each row what `good` says of its value; `null` where there is none."""
        return np.array([*good, null], dtype=bool)[self.codes]  # -1 is the last

    def equal(self, word: str) -> Mask:
        return self.are([value == word for value in self.values], null=False)


@dataclass(frozen=True)
class Candidates:
    """The clips of all datasets that could be asked for, row by row."""

    keys: pa.ChunkedArray
    dataset: NDArray[np.int32]
    """Index into the roots."""
    in_shard: Mask
    """The others were refused by a threshold: only their measures are at hand."""
    where: Mask
    seconds: NDArray[np.float64]
    sync: NDArray[np.float32]
    quality: NDArray[np.float32]
    face_px: NDArray[np.float32]
    language: Words
    reason: Words
    sync_model: Words
    quality_model: Words
    speaker: NDArray[np.int32]
    """Index into speaker_names."""
    speaker_names: list[str]
    same_clip: NDArray[np.int64] | None
    """A number for each key where several datasets are read; None where no key comes twice."""

    @classmethod
    def load(cls, roots: Sequence[str], where: Condition | None) -> "Candidates":
        extra = () if where is None else tuple(name for name in where.columns if name not in DECIDING)
        tables, origins = [], []
        with connect() as connection:
            for index, root in enumerate(roots):
                batches = [
                    _decided(connection, batch, where) for batch in _batches(root, DECIDING + extra) if len(batch)
                ]
                tables += batches
                origins.append(np.full(sum(len(batch) for batch in batches), index, np.int32))
        if not tables:
            raise NotEnoughDataError(f"no clips in {', '.join(roots)}: its manifest has no kept clip in a shard")
        table = pa.concat_tables(tables).unify_dictionaries()
        speakers, sources = Words.of(table["speaker"]), Words.of(table["source_id"])
        names = [f"speaker:{name}" for name in speakers.values] + [f"source:{name}" for name in sources.values]
        if ((speakers.codes < 0) & (sources.codes < 0)).any():
            raise ManifestError("clips without source_id. The manifest is damaged: `lipforge pack` writes it again")
        codes = np.where(speakers.codes >= 0, speakers.codes, len(speakers.values) + sources.codes)
        clips = cls(
            keys=table["key"],
            dataset=np.concatenate(origins),
            in_shard=Words.of(table["status"]).equal(Status.KEPT),
            where=table["where"].to_numpy(),
            seconds=_numbers(table, "duration_s", np.float64),
            sync=_numbers(table, "sync_confidence", np.float32),
            quality=_numbers(table, "quality", np.float32),
            face_px=_numbers(table, "face_size_px", np.float32),
            language=Words.of(table["language"]),
            reason=Words.of(table["reason"]),
            sync_model=Words.of(table["sync_model"]),
            quality_model=Words.of(table["quality_model"]),
            speaker=codes.astype(np.int32),
            speaker_names=names,
            same_clip=_same_clip(table["key"]) if len(roots) > 1 else None,
        )
        clips.check()
        return clips

    def check(self) -> None:
        """Raises ManifestError for rows that no pipeline wrote."""
        bad = np.flatnonzero(~((self.seconds > 0) & np.isfinite(self.seconds)))
        if len(bad):
            raise ManifestError(
                f"{len(bad)} clips have no length: for example {self.keys[int(bad[0])]} has duration_s {self.seconds[bad[0]]}. "
                "The manifest is damaged: `lipforge pack` writes it again"
            )
        if self.keys.null_count:
            raise ManifestError(
                f"{self.keys.null_count} clips have no key. The manifest is damaged: `lipforge pack` writes it again"
            )

    def distinct(self, mask: Mask) -> Rows:
        """The rows of a mask, each clip once."""
        rows = np.flatnonzero(mask)
        if self.same_clip is None:
            return rows
        return rows[np.sort(np.unique(self.same_clip[rows], return_index=True)[1])]

    def hours(self, mask: Mask) -> float:
        return float(self.seconds[self.distinct(mask)].sum()) / 3600


def _batches(root: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows in shards, and rows that a threshold refused: the chosen columns, batch by batch."""
    dataset = open_manifest(root, DICTIONARIES)
    refused = pc.field("reason").isin([str(reason) for reason in LOOSER])
    batches = dataset.to_batches(
        columns=list(columns), filter=IN_SHARD | refused, batch_size=131_072, batch_readahead=4, fragment_readahead=1
    )
    with plain_arrow_errors(root):
        for batch in batches:
            yield pa.Table.from_batches([batch])


def _decided(connection: duckdb.DuckDBPyConnection, rows: pa.Table, where: Condition | None) -> pa.Table:
    """The deciding columns, and the condition's answer as column `where`: its own columns need not stay in memory."""
    answer = np.ones(len(rows), dtype=bool) if where is None else where.passing(connection, rows)
    return rows.select(DECIDING).append_column("where", pa.array(answer))


def _numbers(table: pa.Table, column: str, dtype: type) -> NDArray[Any]:
    """Null becomes NaN, which passes no threshold."""
    return table[column].to_numpy().astype(dtype, copy=False)


def _same_clip(keys: pa.ChunkedArray) -> NDArray[np.int64] | None:
    codes = Words.of(keys.dictionary_encode().unify_dictionaries())
    return codes.codes.astype(np.int64) if len(codes.values) < len(keys) else None


# --- filters


def _filters(clips: Candidates, request: Request) -> dict[str, Mask]:
    """For each filter of the request, by the option that sets it, which clips pass."""
    filters: dict[str, Mask] = {}
    if request.languages:
        filters[" ".join(f"--language {name}" for name in request.languages)] = _language_mask(clips, request)
    for option, least, measured in (
        ("--min-sync", request.min_sync, clips.sync),
        ("--min-quality", request.min_quality, clips.quality),
        ("--min-face-px", request.min_face_px, clips.face_px),
    ):
        if least is not None:
            # In the column's own precision: a clip of exactly 3.1 passes 3.1.
            with np.errstate(over="ignore"):
                filters[f"{option} {least:g}"] = measured >= np.float32(least)
    if request.where is not None:
        filters[f'--where "{request.where}"'] = clips.where
    if request.exclude:
        excluded = pa.chunked_array([_keys_of(path) for path in request.exclude], pa.string())
        filters[" ".join(f"--exclude {path}" for path in request.exclude)] = _positions(clips.keys, excluded) < 0
    return filters


def _language_mask(clips: Candidates, request: Request) -> Mask:
    ranges = [_range(name) for name in request.languages]
    return clips.language.are([_speaks(tag, ranges) for tag in clips.language.values], "und" in ranges)


def _range(name: str) -> str:
    return name.strip().replace("_", "-").lower()


def _speaks(tag: str, ranges: Sequence[str]) -> bool:
    """Basic filtering of RFC 4647, 3.3.1: equal, or followed by a hyphen. An empty tag is unknown."""
    tag = _range(tag) or "und"
    return any(tag == wanted or tag.startswith(f"{wanted}-") for wanted in ranges)


def _keys_of(path: str) -> pa.Array:
    try:
        return parse_parquet(read_file(path))["key"].cast(pa.string()).combine_chunks()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"nothing to exclude at {path}: expected a Parquet file with a column `key`") from error
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be excluded, expected a Parquet file with a column `key`: {error}") from error


def _positions(values: pa.Array | pa.ChunkedArray, among: pa.ChunkedArray) -> NDArray[np.int32]:
    """Of each value its place in `among`; -1: it is not there."""
    options = pc.SetLookupOptions(value_set=among.combine_chunks())
    return pc.call_function("index_in", [values], options).fill_null(-1).to_numpy()


def _all(filters: Mapping[str, Mask], num_rows: int, but: str = "") -> Mask:
    mask = np.ones(num_rows, dtype=bool)
    for name, passing in filters.items():
        if name != but:
            mask &= passing
    return mask


def _mixed_models(clips: Candidates, filters: Mapping[str, Mask], request: Request) -> str:
    """What is wrong when one threshold, or one order, is for scores of several models; empty when it is not."""
    for measure, least, scores, models in (
        ("sync", request.min_sync, clips.sync, clips.sync_model),
        ("quality", request.min_quality, clips.quality, clips.quality_model),
    ):
        option = f"--min-{measure} {least:g}" if least is not None else f"--order {measure}"
        if least is None and request.order != measure:
            continue
        rows = _all(filters, len(clips.seconds), but=option) & clips.in_shard & np.isfinite(scores)
        counts = np.bincount(models.codes[rows] + 1, minlength=len(models.values) + 1)
        found = {(["no name", *models.values])[i]: int(counts[i]) for i in np.flatnonzero(counts)}
        if len(found) > 1:
            words = ", ".join(f"{name} ({count:,} clips)" for name, count in sorted(found.items()))
            return (
                f"{option} would compare scores of different models: {words}. "
                f"Choose one, for example --where \"{measure}_model = '{max(found, key=lambda name: found[name])}'\""
            )
    return ""


# --- taking hours


def is_val_speaker(name: str, share: float) -> bool:
    """Whether a person is kept for validation: by the name alone, so nothing that is added later changes it.

    name: as speaker_names() gives it. share: of all people, 0..1; a larger share keeps all people of a smaller one.
    """
    return hash_place(name) < share


def hash_place(name: str) -> float:
    """A number from 0 to 1 that depends on a name alone: the first 8 bytes of its SHA-256, most significant first, over 2^64."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _pools(clips: Candidates, mask: Mask, request: Request) -> dict[str, Rows]:
    """Rows that each split may take, in the order of taking."""
    rows = _in_order(clips, clips.distinct(mask), request)
    if request.max_hours_per_speaker is not None:
        rows = rows[_within_cap(clips.speaker[rows], clips.seconds[rows], request.max_hours_per_speaker * 3600)]
    if not request.val_hours:
        return {"train": rows}
    for_val = np.zeros(len(clips.speaker_names), dtype=bool)
    for code in np.unique(clips.speaker[rows]):
        for_val[code] = is_val_speaker(clips.speaker_names[code], request.val_share)
    in_val = for_val[clips.speaker[rows]]
    return {"train": rows[~in_val], "val": rows[in_val]}


def _in_order(clips: Candidates, rows: Rows, request: Request) -> Rows:
    """Best first, or shuffled; among equals shuffled. By MD5 of `SEED:KEY`: the place of a clip among others is theirs alone."""
    if request.order == "random":
        measured = np.zeros(len(rows), dtype=np.float32)
    else:
        measured = np.nan_to_num((clips.sync if request.order == "sync" else clips.quality)[rows], nan=-np.inf)
    table = pa.table({"number": rows, "key": clips.keys.take(pa.array(rows)), "measured": measured})
    with connect() as connection:
        connection.register("chosen", table)
        sql = "SELECT number FROM chosen ORDER BY measured DESC, md5_number(? || ':' || key)"
        return connection.sql(sql, params=[str(request.seed)]).to_arrow_table()["number"].to_numpy()


def _within_cap(speakers: NDArray[np.int32], seconds: NDArray[np.float64], cap_s: float) -> Mask:
    """Of each speaker the first clips that together are no longer than the cap."""
    by_speaker = np.argsort(speakers, kind="stable")
    total = np.cumsum(seconds[by_speaker])
    first = np.flatnonzero(np.diff(speakers[by_speaker], prepend=-1))
    before = (total - seconds[by_speaker])[first]
    spent = total - np.repeat(before, np.diff(first, append=len(total)))
    within = np.zeros(len(speakers), dtype=bool)
    within[by_speaker] = spent <= cap_s + 1e-6  # sums of 0.04 s are not exact
    return within


def _first_hours(clips: Candidates, rows: Rows, hours: float | None) -> Rows:
    """As many rows as come closest to the hours; at least one."""
    if hours is None or not len(rows):
        return rows
    total = np.cumsum(clips.seconds[rows])
    count = int(np.searchsorted(total, hours * 3600))
    if count == len(rows):
        return rows
    if count and hours * 3600 - total[count - 1] <= total[count] - hours * 3600:
        return rows[:count]
    return rows[: count + 1]


# --- too little, and what else to say


def _refuse_too_little(
    clips: Candidates, filters: Mapping[str, Mask], split: str, pool: Rows, hours: float | None, request: Request
) -> None:
    """Raises NotEnoughDataError with what there is and what each filter costs. A split without a single clip is too little in any case."""
    found = float(clips.seconds[pool].sum()) / 3600
    if len(pool) and (request.allow_less or hours is None or found >= hours * (1 - TOLERANCE)):
        return
    what = "training" if split == "train" else "validation"
    asked = "" if hours is None else f"{f'{hours:g} h' if hours >= 1 else human_time(3600 * hours)} asked for, "
    lines = [f"not enough data for {what}: {asked}{human_time(3600 * found)} there are."]
    costs = _costs(clips, filters, split, request)
    costs = {name: there for name, there in costs.items() if there > found}
    if costs:
        lines.append("Without one of the filters there would be:")
        lines += [
            f"  {human_time(3600 * there)} without {name}" for name, there in sorted(costs.items(), key=lambda c: -c[1])
        ]
    elif filters:
        everything = float(clips.seconds[_pools(clips, clips.in_shard, request)[split]].sum()) / 3600
        lines.append(
            f"No filter alone makes the difference; without all of them there are {human_time(3600 * everything)}."
        )
    if request.languages and not (_language_mask(clips, request) & clips.in_shard).any():
        lines.append(f"Languages here: {_most_hours(clips)}.")
    lines += _refused(clips, _all(filters, len(clips.seconds)), request)
    if split == "val":
        lines.insert(1, _more_people(clips, _all(filters, len(clips.seconds)), hours, request))
    lines.append(
        "--allow-less takes what there is." if len(pool) else "--allow-less does not help: there is not one clip."
    )
    raise NotEnoughDataError("\n".join(lines))


def _more_people(clips: Candidates, passing: Mask, hours: float | None, request: Request) -> str:
    """Which share of people would give validation its hours."""
    words = f"Validation may use {100 * request.val_share:g} % of all people, chosen by hash of the name"
    needed_s = 0.0 if request.allow_less else (hours or 0) * 3600 * (1 - TOLERANCE)
    rows = _pools(clips, passing & clips.in_shard, replace(request, val_hours=0.0))["train"]
    places = np.array([hash_place(name) for name in clips.speaker_names])[clips.speaker[rows]]
    by_place = np.argsort(places, kind="stable")
    total = np.cumsum(clips.seconds[rows][by_place])
    enough = int(np.searchsorted(total, needed_s))
    if enough >= len(rows):
        return f"{words}; all people together would not be enough."
    share = math.floor(places[by_place][enough] * 1000 + 1) / 1000  # the next step above that person's place
    if not (places >= share).any():
        return f"{words}; it would take all people together, and leave training nobody."
    return f"{words}; --val-share {share:g} would be enough, and would leave training the others."


def _costs(clips: Candidates, filters: Mapping[str, Mask], split: str, request: Request) -> dict[str, float]:
    """Hours that a split could take without each filter alone."""
    tries = {
        name: (_all(filters, len(clips.seconds), but=name), request)
        for name in filters
        if not _mixed_models(clips, {other: mask for other, mask in filters.items() if other != name}, request)
    }
    passing = _all(filters, len(clips.seconds))
    if request.max_hours_per_speaker is not None:
        name = f"--max-hours-per-speaker {request.max_hours_per_speaker:g}"
        tries[name] = (passing, replace(request, max_hours_per_speaker=None))
    if request.val_hours and split == "train":
        tries["--val-hours"] = (passing, replace(request, val_hours=0.0))
    hours = {}
    for name, (mask, looser) in tries.items():
        rows = _pools(clips, mask & clips.in_shard, looser)[split]
        hours[name] = float(clips.seconds[rows].sum()) / 3600
    return hours


def _most_hours(clips: Candidates, count: int = 12) -> str:
    codes = clips.language.codes[clips.in_shard] + 1
    seconds = np.bincount(codes, clips.seconds[clips.in_shard], minlength=len(clips.language.values) + 1)
    names = ["und", *clips.language.values]
    ranked = [int(i) for i in np.argsort(-seconds, kind="stable") if seconds[i] > 0]
    words = [f"{names[i] or 'und'} {human_time(seconds[i])}" for i in ranked[:count]]
    return ", ".join(words) + (f", and {len(ranked) - count} more" if len(ranked) > count else "")


def _refused(clips: Candidates, passing: Mask, request: Request) -> list[str]:
    """Clips that pass what was asked for, and not the stricter threshold that the dataset was packed with."""
    lines = []
    for reason, least in ((Reason.LOW_SYNC_CONFIDENCE, request.min_sync), (Reason.LOW_QUALITY, request.min_quality)):
        hours = 0.0 if least is None else clips.hours(passing & ~clips.in_shard & clips.reason.equal(reason))
        if hours:
            lines.append(
                f"up to {human_time(3600 * hours)} more pass, but the dataset's own threshold refused them ({reason}) and they are in no shard: "
                f"lipforge pack DATASET --set {LOOSER[reason]}={least:g} brings back those that its other thresholds keep"
            )
    return lines


def _notes(clips: Candidates, passing: Mask, table: pa.Table, request: Request) -> list[str]:
    notes = _refused(clips, passing, request)
    unknown = table["speaker"].null_count
    if unknown:
        notes.append(
            f"{unknown:,} of {len(table):,} clips have no speaker: each source counts as one, so someone who speaks in two sources counts twice"
        )
    if clips.same_clip is not None:
        rows = passing & clips.in_shard
        twice = int(rows.sum()) - len(clips.distinct(rows))
        if twice:
            notes.append(f"{twice:,} clips are in more than one dataset: each counts once")
    return notes


# --- the chosen rows


def _fetch(roots: Sequence[str], clips: Candidates, taken: Mapping[str, Rows]) -> pa.Table:
    """All columns of the chosen rows, in their order, with dataset and split."""
    rows = np.concatenate(list(taken.values()))
    keys = clips.keys.take(pa.array(rows)).combine_chunks()
    tables = []
    for index, root in enumerate(roots):
        here = keys.filter(pa.array(clips.dataset[rows] == index))
        if len(here):
            name = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), len(here)), [root])
            tables.append(_rows_of(root, here).append_column("dataset", name))
    found = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    found = found.take(pa.array(_positions(keys, found["key"])))
    splits = [pa.repeat(split, len(chosen)) for split, chosen in taken.items()]
    found = found.append_column("split", pa.chunked_array(splits).combine_chunks())
    # Text in chunks: one of Arrow's string arrays holds 2 GB.
    return pa.Table.from_batches(found.to_batches(max_chunksize=500_000)).cast(SELECTION_COLUMNS)


def _rows_of(root: str, keys: pa.StringArray) -> pa.Table:
    """Rows by key. Text that repeats stays in dictionaries: most rows are read only to be passed over."""
    dictionaries = [
        field.name for field in COLUMNS if field.type == pa.string() and field.name not in ("clip_id", "key")
    ]
    scanner = open_manifest(root, dictionaries).scanner(
        filter=IN_SHARD & pc.field("key").isin(keys), batch_readahead=2, fragment_readahead=1
    )
    with plain_arrow_errors(root):
        table = pa.Table.from_batches([batch for batch in scanner.to_batches() if len(batch)], scanner.projected_schema)
    if len(table) != len(keys) or len(keys.unique()) != len(keys):
        raise ManifestError(f"the manifest of {root} has several rows for one key: `lipforge pack` writes it again")
    return table
