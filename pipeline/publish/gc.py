"""Find and delete files that nothing refers to: old manifests, and what stopped or refused commands left.

Shards that any segment or `pack` recorded stay, so selections stay valid. In an object store, where a command that
lost its lease may wake up, only files older than a day go.
"""

import re
import time
from dataclasses import dataclass

from lipforge.datasets_manifest.generations import FOLDER as MANIFEST
from lipforge.datasets_manifest.generations import Generation, generation_numbers
from lipforge.datasets_manifest.lost import tars_named
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.parts import done_units, part_name
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.publish.facts import FactFiles
from lipforge.pipeline.publish.publish import generation_in_force, require_segments
from lipforge.pipeline.publish.tasks import Mapper, delete_files

YOUNG_S = 24 * 3600.0
_OUR_MANIFESTS = re.compile(rf"{MANIFEST}/(generation-[0-9]{{6}}\.json|rows-[0-9a-f]{{16}}\.parquet)")
_OUR_RUNS = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]+")
_OURS = re.compile(r"(shards/[^/]+|refused|stills)/[^/]+-[0-9a-f]{16}\.tar")


@dataclass(frozen=True)
class Garbage:
    """Files that nothing in force refers to, with their bytes."""

    manifests: dict[str, int]
    """Of generations before the one in force: the rows of those cannot be looked up any more."""
    generations: list[int]
    left_over: dict[str, int]
    """Of commands that were stopped or refused."""

    @property
    def size_bytes(self) -> int:
        return sum(self.manifests.values()) + sum(self.left_over.values())

    @property
    def names(self) -> list[str]:
        return [*self.manifests, *self.left_over]


def find_garbage(store: Store) -> Garbage:
    """Raises DatasetError when the ledger or the manifest in force is damaged: then nothing is known to be garbage."""
    in_force = generation_in_force(store)
    manifests: dict[str, int] = {}
    generations = []
    if in_force is not None:
        sizes = store.sizes(MANIFEST)
        wanted = {in_force.name, *(file["name"] for file in in_force.files)}
        ours = {name: size for name, size in sizes.items() if _OUR_MANIFESTS.fullmatch(name) and name not in wanted}
        manifests = _old(store, ours)
        generations = [number for number in generation_numbers(store) if Generation(number, []).name in manifests]
    return Garbage(manifests, generations, _old(store, _left_over(store)))


def left_over_shards(store: Store) -> dict[str, int]:
    """Shards that stopped commands left, with their bytes: whoever reads all shards sees their clips twice.

    Costs little when there are none.
    """
    named = tars_named(store.root)
    if all(name in named for name in store.sizes("shards") if _OURS.fullmatch(name)):
        return {}
    return {name: size for name, size in _left_over(store).items() if name.startswith("shards/")}


def _left_over(store: Store) -> dict[str, int]:
    segments, facts = Segments(store), FactFiles(store)
    require_segments(store, generation_in_force(store), segments)
    wanted, sealed_units = set[str](), set[str]()
    for segment in segments.numbers():
        sealed = segments.sealed(segment)
        if sealed is not None:
            wanted |= set(sealed.rows["shard"].unique().to_pylist())
            sealed_units |= set(sealed.rows["unit_id"].unique().to_pylist())
        wanted |= set(facts.moves.rows(segment)["shard"].to_pylist())
        pruned = facts.pruned.rows(segment)
        wanted |= set(pruned["still"].to_pylist())
        wanted -= set(pruned["tar"].to_pylist())
    wanted |= tars_named(store.root)  # whatever the ledger says
    found = {}
    for folder in ("shards", "refused", "stills"):
        sizes = store.sizes(folder)
        found |= {name: size for name, size in sizes.items() if _OURS.fullmatch(name) and name not in wanted}
    parts = store.sizes("parts")
    found |= {name: parts[name] for unit in done_units(store) & sealed_units if (name := part_name(unit)) in parts}
    for run in filter(_OUR_RUNS.fullmatch, store.folders("runs")):
        found |= store.sizes(f"runs/{run}/attempts")
    return found


def _old(store: Store, files: dict[str, int]) -> dict[str, int]:
    """Those that no other command may be about to use: all of a folder, which is locked."""
    if store.is_local:
        return files
    now_s = time.time()
    ages = {name: store.modified_s(name) for name in files}
    return {name: size for name, size in files.items() if (at_s := ages[name]) and now_s - at_s > YOUNG_S}


def delete_garbage(store: Store, garbage: Garbage, run_map: Mapper = map) -> None:
    """Generations first: what they name must not be missed while they are there."""
    first = [name for name in garbage.names if name.endswith(".json")]
    delete_files(store, first, run_map)
    delete_files(store, sorted(set(garbage.names) - set(first)), run_map)
