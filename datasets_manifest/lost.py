"""Shards that the manifest in force names and that are gone, in words."""

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.display import counted
from lipforge.datasets_manifest.durations import human_time
from lipforge.datasets_manifest.manifest import open_manifest
from lipforge.datasets_manifest.schema import Status
from lipforge.datasets_manifest.storage.store import Store


def tars_named(dataset_dir: str) -> set[str]:
    """Names of all tars that the manifest in force says media or stills lie in. Empty without a manifest."""
    try:
        manifest = open_manifest(dataset_dir, ("shard",))
    except FileNotFoundError:
        return set()
    found = set[str]()
    for batch in manifest.to_batches(columns=["shard"]):
        found |= set(batch["shard"].dictionary.to_pylist())
    return found


def lost_shards(dataset_dir: str) -> str | None:
    """Which shards are gone, and what to do; None when all are there. Reads one column, and no shard.

    dataset_dir: a folder or an fsspec URL.
    """
    store = Store(dataset_dir)
    named = {name for name in tars_named(dataset_dir) if name.startswith("shards/")}
    gone = sorted(named - store.sizes("shards").keys()) if named else []
    if not gone:
        return None
    is_gone = (pc.field("status") == Status.KEPT.value) & pc.is_in(pc.field("shard"), pa.array(gone, pa.string()))
    lengths = open_manifest(dataset_dir).to_table(columns=["duration_s"], filter=is_gone)["duration_s"]
    seconds = pc.sum(lengths).as_py() or 0.0
    one = len(gone) == 1
    which = "the only shard" if len(named) == 1 else f"{len(gone)} of the {len(named):,} shards"
    return (
        f"{which} {'is' if one else 'are'} gone, with {counted(len(lengths), 'kept clip')} "
        f"({human_time(seconds)}) that cannot be trained on any more: {store.path(gone[0])}"
        f"{'' if one else f' and {len(gone) - 1} more'}. Restore {'it' if one else 'them'} from a copy, or prepare the "
        "sources again into a new folder"
    )
