"""Delete the media of clips that a threshold refused; a still of each stays for the report.

Media of refused clips lies in tars of its own (refused/), so shards are not touched: a clip that stricter thresholds
refused later stays in its shard. Stills are written first, then one table says where, then the tars go.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import av.error
import pyarrow as pa

from lipforge.datasets_manifest.sample import read_clip, sample_bytes
from lipforge.datasets_manifest.sample_media import poster_jpeg
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.publish.facts import PRUNE_COLUMNS, FactFiles
from lipforge.pipeline.publish.shards import Place, write_tar
from lipforge.pipeline.publish.tasks import Mapper, delete_files

_COLUMNS = ("key", "shard", "sample_offset", "sample_size")


class Prunable(NamedTuple):
    """What `prune` deletes."""

    tars: list[str]
    clips: int
    """Refused ones with media in them. The rest are copies: shards hold those clips now."""
    size_bytes: int


def find_prunable(store: Store) -> Prunable:
    """Tars of refused media that the ledger knows: others belong to a segment that is being sealed, or to `gc`."""
    sizes, facts = store.sizes("refused"), FactFiles(store)
    moves, pruned = facts.moves, facts.pruned
    # Also those that a prune which was stopped has recorded and not deleted.
    tars = {tar for n in Segments(store).numbers() for tar in pruned.rows(n)["tar"].to_pylist() if tar in sizes}
    clips = 0
    for segment, refused in _refused(store, set(sizes)):
        tars |= {place.tar for _, place in refused}
        clips += len(refused) - len(moves.rows(segment))
    return Prunable(sorted(tars), clips, sum(sizes[tar] for tar in tars))


def prune_files(store: Store, prunable: Prunable) -> None:
    """Safe to repeat. Whoever calls this publishes the manifest before, so that it names every clip that is kept."""
    facts = FactFiles(store)
    rows: list[dict[str, Any]] = []
    for segment, refused in _refused(store, set(prunable.tars)):
        rows += _with_stills(store, segment, refused, set(facts.moves.rows(segment)["key"].to_pylist()))
    if rows:
        facts.pruned.add(pa.Table.from_pylist(rows, PRUNE_COLUMNS))


def delete_tars(store: Store, prunable: Prunable, run_map: Mapper = map) -> None:
    """After `prune_files`, and after a manifest that names none of them is in force."""
    delete_files(store, prunable.tars, run_map)


def _refused(store: Store, tars: set[str]) -> list[tuple[int, list[tuple[str, Place]]]]:
    """(segment, [(key, place)]) of clips whose media lies in these tars."""
    segments, pruned, found = Segments(store), FactFiles(store).pruned, []
    for segment in segments.numbers():
        sealed = segments.sealed(segment)
        if sealed is None:
            continue
        gone = {(row["key"], row["tar"]) for row in pruned.rows(segment).to_pylist()}
        columns = (sealed.rows[name].to_pylist() for name in _COLUMNS)
        places = [(key, Place(*place)) for key, *place in zip(*columns, strict=True)]
        here = [(key, place) for key, place in places if place.tar in tars and (key, place.tar) not in gone]
        if here:
            found.append((segment, here))
    return found


def _with_stills(
    store: Store, segment: int, refused: Sequence[tuple[str, Place]], in_shards: set[str]
) -> list[dict[str, Any]]:
    """Rows of PRUNE_COLUMNS. A clip that a shard holds, or that cannot be read, gets no still."""
    wanted = [(key, place) for key, place in sorted(refused) if key not in in_shards]
    stills = {key: still for key, place in wanted if (still := _still(store, key, place))}
    places = write_tar(store, f"stills/{segment:06d}", stills.items()) if stills else {}
    rows = []
    for key, place in refused:
        still = places.get(key) or (None, None, None)
        row = {"segment": segment, "key": key, "tar": place.tar}
        rows.append({**row, "still": still[0], "offset": still[1], "size": still[2]})
    return rows


def _still(store: Store, key: str, place: Place) -> bytes | None:
    try:
        poster = poster_jpeg(read_clip(store.read(*place), place.size, key)["mp4"])
    except (FileNotFoundError, ValueError, av.error.FFmpegError):
        return None
    return sample_bytes(key, {"jpg": poster})
