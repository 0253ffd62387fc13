"""Chooses clips: hours of a language, in sync, with a limit per speaker; the same request always gives the same clips.

Nothing is measured again: thresholds cut the measures in the manifest. First the few columns that decide are
read for all clips (candidates.py), then all columns of the chosen ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lipforge.datasets_manifest.language_tags import with_canonical_languages
from lipforge.datasets_manifest.manifest import ManifestError, open_manifest, plain_arrow_errors
from lipforge.datasets_manifest.schema import COLUMNS
from lipforge.datasets_manifest.select.candidates import IN_SHARD, Candidates, RowNumbers, positions
from lipforge.datasets_manifest.select.filters import masks_by_option, mixed_models, passing_all
from lipforge.datasets_manifest.select.pools import first_hours, pools_by_split
from lipforge.datasets_manifest.select.request import Request, Selection
from lipforge.datasets_manifest.select.shortage import notes_on, refuse_too_little
from lipforge.datasets_manifest.select.where import parse_condition
from lipforge.datasets_manifest.selection import SELECTION_COLUMNS, with_request


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
    filters = masks_by_option(clips, request)
    if mixed := mixed_models(clips, filters, request):
        raise ValueError(mixed)
    passing = passing_all(clips, filters)
    pools = pools_by_split(clips, passing & clips.in_shard, request)
    wanted = {"train": request.hours, "val": request.val_hours}
    for split, pool in pools.items():
        refuse_too_little(clips, filters, split, pool, wanted[split], request)
    taken = {split: first_hours(clips, pool, wanted[split]) for split, pool in pools.items()}
    table = with_request(_read_rows(request.roots(), clips, taken), request.as_json())
    return Selection(table, notes_on(clips, filters, table, request))


def _read_rows(roots: Sequence[str], clips: Candidates, taken: Mapping[str, RowNumbers]) -> pa.Table:
    """All columns of the chosen rows, in their order, with dataset and split. Languages are canonical."""
    rows = np.concatenate(list(taken.values()))
    keys = clips.keys.take(pa.array(rows)).combine_chunks()
    tables = []
    for index, root in enumerate(roots):
        here = keys.filter(pa.array(clips.dataset[rows] == index))
        if len(here):
            name = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), len(here)), [root])
            tables.append(_rows_of(root, here).append_column("dataset", name))
    found = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    found = found.take(pa.array(positions(keys, found["key"])))
    splits = [pa.repeat(split, len(chosen)) for split, chosen in taken.items()]
    found = found.append_column("split", pa.chunked_array(splits).combine_chunks())
    # Text in chunks: one of Arrow's string arrays holds 2 GB.
    found = pa.Table.from_batches(found.to_batches(max_chunksize=500_000)).cast(SELECTION_COLUMNS)
    return with_canonical_languages(found)


def _rows_of(root: str, keys: pa.StringArray) -> pa.Table:
    """Rows by key. Repeating text stays in dictionaries: most rows are read only to be skipped."""
    dictionaries = [field.name for field in COLUMNS if field.type == pa.string() and field.name != "key"]
    scanner = open_manifest(root, dictionaries).scanner(
        filter=IN_SHARD & pc.field("key").isin(keys), batch_readahead=2, fragment_readahead=1
    )
    with plain_arrow_errors(root):
        table = pa.Table.from_batches([batch for batch in scanner.to_batches() if len(batch)], scanner.projected_schema)
    if len(table) != len(keys) or len(keys.unique()) != len(keys):
        raise ManifestError(f"the manifest of {root} has several rows for one key: `lipforge pack` writes it again")
    return table
