"""Open a dataset for writing: one writer at a time, one set of settings and models per dataset."""

import difflib
import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from lipforge.datasets_manifest.generations import Generation, ManifestError, last_generation
from lipforge.datasets_manifest.storage.lease import HeldError
from lipforge.datasets_manifest.storage.store import Store
from lipforge.datasets_manifest.storage.trouble import why_not_made
from lipforge.model.sync.weights_file import scorer_name
from lipforge.model.weights import load as weights
from lipforge.pipeline.config import RECIPE_VERSION, PrepareConfig
from lipforge.pipeline.config_loader import Config, parse_value, validated
from lipforge.pipeline.ledger.records import FORMAT_VERSION, DatasetError, Record, read_dataset, write_dataset
from lipforge.pipeline.ledger.segments import Segments
from lipforge.pipeline.profiles import PROFILES
from lipforge.pipeline.running.summary import versions

SYNC_WEIGHTS = "lip_sync.safetensors"
C = TypeVar("C", bound=Config)

EXPORT_RECORD = "ledger/export.json"
"""In a dataset made by `lipforge export`: what was exported, and from where."""


def load_models(config: PrepareConfig) -> dict[str, bytes]:
    """Contents of the model files of `models` by name, with the user's own weights if given.

    Raises ModelFileError when a file is missing or unusable, ValueError for settings that do not fit together.
    """
    models = weights.load(config.models)
    if config.sync.weights is None:
        return models
    if config.models != "builtin":
        raise ValueError(f"sync.weights are for the built-in lip-sync scorer, but models is {config.models}")
    if config.thresholds.min_sync_confidence is None:
        raise ValueError(
            "sync.weights have their own scale: set thresholds.min_sync_confidence for them "
            "(`python -m benchmarks.lip_sync --weights` shows what a threshold keeps)"
        )
    from lipforge.model.sync.builtin import LipSyncScorer

    try:
        content = config.sync.weights.read_bytes()
        name = LipSyncScorer(content).name
    except OSError as error:
        raise weights.ModelFileError(f"sync.weights: {config.sync.weights}: {error.strerror}") from error
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise weights.ModelFileError(
            f"sync.weights: {config.sync.weights} is not from `python -m train.scorers.lip_sync train`: {error}"
        ) from error
    if name == scorer_name(models[SYNC_WEIGHTS]) and content != models[SYNC_WEIGHTS]:
        raise ValueError(
            f"sync.weights have the name of the shipped scorer, {name}: train them with another --name, "
            "so that manifests distinguish their scores"
        )
    return {**models, SYNC_WEIGHTS: content}


def resolve(config: PrepareConfig, models: Mapping[str, bytes]) -> tuple[PrepareConfig, dict[str, str]]:
    """Settings with the defaults of their models filled in, and the hashes that every row carries.

    Opens the models, so that an unusable file fails here and not in a worker.
    """
    from lipforge.model.audio.speech import SpeechDetector

    profile = PROFILES[config.models]
    profile.faces(models)
    names = {"sync_model": profile.sync_name(models), "quality_model": profile.quality(models).name}
    for field, name in names.items():
        given = getattr(config.thresholds, field)
        if given not in (None, name):
            raise ValueError(
                f"thresholds.{field} is {given}, and models={config.models} measures with {name}: a threshold is valid "
                f"only on the scale of its own model. Leave {field} out, and set the threshold for {name}."
            )
    limits = {
        "min_sync_confidence": profile.min_sync_confidence,
        "short_sync_factor": profile.short_sync_factor,
        "min_quality": profile.min_quality,
        **names,
    }
    config = config.model_copy(
        update={
            "thresholds": _filled(config.thresholds, limits),
            "faces": _filled(config.faces, {"min_width_px": profile.min_face_width_px}),
        }
    )
    if "score" not in config.run.model_fields_set:
        config = config.model_copy(update={"run": config.run.model_copy(update={"score": profile.score_resources})})
    speech = SpeechDetector().model_file
    everything = {**models, speech.name: speech.read_bytes()}
    return config, {"config_hash": config.config_hash(), "models_hash": weights.models_hash(everything)[:16]}


def _filled(section: C, defaults: Mapping[str, Any]) -> C:
    """Settings with defaults for those that are None."""
    return section.model_copy(update={name: v for name, v in defaults.items() if getattr(section, name) is None})


def check_set(store: Store, config: PrepareConfig) -> None:
    """Raises DatasetError when the dataset was made with another profile. Needs no model files."""
    record = read_dataset(store)
    if record is None:
        return
    stored = stored_config(store, record)
    if stored.models != config.models:
        raise DatasetError(
            f"{store.root} was made with the models `{stored.models}`, not with `{config.models}`: their scores "
            f"are not comparable. Use a new folder, or `--models {stored.models}`."
        )


def _last_generation(store: Store) -> Generation | None:
    try:
        return last_generation(store)
    except ManifestError as error:
        raise DatasetError(str(error)) from error


def stored_config(store: Store, record: Record) -> PrepareConfig:
    """The dataset's settings, with the thresholds in force: `lipforge pack` may have changed those that it began with.

    `run` gets its defaults: it shapes no byte. Raises DatasetError.
    """
    plain = {name: value for name, value in record["config"].items() if name != "run"}
    generation = _last_generation(store)
    if generation is not None:
        plain |= {name: generation.about[name] for name in ("thresholds", "pack") if name in generation.about}
    try:
        return validated(PrepareConfig, plain)
    except ValueError as error:
        place = store.path(generation.name if generation is not None else "ledger/dataset.json")
        raise DatasetError(
            f"the settings in {place} are damaged, or of another version of Lipforge: {error}. Restore it from a copy"
        ) from error


def open_dataset(store: Store, config: PrepareConfig, hashes: dict[str, str]) -> None:
    """Start a dataset, or check that this run fits the existing one."""
    if not is_begun(store, config, hashes):
        plain = config.model_dump(mode="json")
        write_dataset(
            store, {"config": plain, "measuring": config.measuring(), "hashes": hashes, "versions": versions()}
        )


def is_begun(store: Store, config: PrepareConfig, hashes: dict[str, str]) -> bool:
    """Whether there is a dataset, which these settings and models then fit. Raises DatasetError when they do not."""
    plain = config.model_dump(mode="json")
    record = read_dataset(store)
    if record is None:
        _refuse_export(store)
        _refuse_lost(store)
        return False
    _require_format(store, record)
    advice = f"Use a new folder, or the settings that {store.root} was made with (ledger/dataset.json)."
    if record["measuring"].get("recipe_version") != RECIPE_VERSION:
        raise DatasetError(
            f"{store.root} was made by another version of Lipforge whose clips and measures differ; it cannot be "
            "continued. Prepare the sources into a new folder; this one can still be queried, selected from and "
            "trained on."
        )
    if record["hashes"]["config_hash"] != hashes["config_hash"]:
        changed = _differences(record["measuring"], config.measuring())
        raise DatasetError(f"{store.root} was made with other settings: {'; '.join(changed)}. {advice}")
    if record["hashes"]["models_hash"] != hashes["models_hash"]:
        raise DatasetError(f"{store.root} was made with other model files. {advice}")
    stored = stored_config(store, record).model_dump(mode="json")
    changed = _differences(stored["thresholds"], plain["thresholds"])
    if changed:
        raise DatasetError(
            f"{store.root} has other thresholds: {'; '.join(changed)}. Apply new ones with `lipforge pack`, which "
            "measures nothing again, or run prepare with those of the dataset."
        )
    if stored["pack"] != plain["pack"]:
        raise DatasetError(f"{store.root} has shards of another size ({stored['pack']}). {advice}")
    return True


def require_dataset(store: Store) -> Record:
    """Of a dataset that there is something to change of. Raises DatasetError."""
    record = read_dataset(store)
    if record is None:
        _refuse_export(store)
        _refuse_lost(store)
        raise DatasetError(
            f"{store.root} is not a dataset: there is no ledger/dataset.json. Make one with `lipforge prepare`."
        )
    _require_format(store, record)
    segments = Segments(store)
    if _last_generation(store) is None and not any(segments.revision(number) >= 0 for number in segments.numbers()):
        raise DatasetError(
            f"{store.root} has no manifest yet, and no shard: its first run has not ended. Run the same `lipforge "
            "prepare` again; it continues from what is done."
        )
    return record


def _require_format(store: Store, record: Record) -> None:
    found = record.get("format_version", 1)
    if found != FORMAT_VERSION:
        raise DatasetError(
            f"{store.root} is a dataset of format {found}, which this version of Lipforge (format {FORMAT_VERSION}) "
            "reads but does not change: select from it, train on it and export it as before. To change it, use the "
            "version that made it, or prepare the sources again into a new folder."
        )


def _refuse_lost(store: Store) -> None:
    if store.list("ledger/segments"):
        raise DatasetError(
            f"{store.root} has lost ledger/dataset.json, which says how it was made. "
            "Restore it from a copy, or use a new folder."
        )


def _refuse_export(store: Store) -> None:
    if store.exists(EXPORT_RECORD):
        raise DatasetError(
            f"{store.root} was made by `lipforge export`: it holds the chosen clips, but not what changes need "
            "(sources, refused clips, settings). Narrow it with `lipforge select`; make other changes in the "
            f"dataset that it came from ({EXPORT_RECORD} says which), and export again."
        )


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(set(old) | set(new))
        return [line for n in names for line in _differences(old.get(n), new.get(n), f"{name}.{n}" if name else n)]
    return [] if old == new else [f"{name} was {old}, now {new}"]


def with_thresholds(config: PrepareConfig, changes: list[str], shard_size_mb: float | None) -> PrepareConfig:
    tree = config.model_dump(mode="json")
    for change in changes:
        name, separator, value = change.partition("=")
        name = name.removeprefix("thresholds.")
        known = [known for known in tree["thresholds"] if not known.endswith("_model")]
        if not separator or name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near and separator else ""
            raise ValueError(f"--set {change}: {hint}expected one of {', '.join(known)}, for example min_quality=50")
        tree["thresholds"][name] = number = parse_value(value, change)
        if number is None:
            raise ValueError(f"--set {change}: expected a number")
    if shard_size_mb is not None:
        tree["pack"]["shard_size_mb"] = shard_size_mb
    return validated(PrepareConfig, tree)


@contextmanager
def writing(store: Store) -> Iterator[None]:
    """Hold the dataset for this command. Raises DatasetError when another command holds it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(store.only_writer())
        except BlockingIOError as error:
            who = f" ({error})" if isinstance(error, HeldError) else ""
            words = f"{store.root} is being written by another command{who}. Wait for it or stop it."
            raise DatasetError(words) from error
        except OSError as error:
            why = why_not_made(error.filename or store.root, error)
            raise DatasetError(f"{store.root} cannot be written: {why}") from error
        yield


def require_writable(store: Store) -> None:
    """Raises DatasetError as `writing` would, so far as it can be told without writing."""
    if not store.is_local:
        return
    there = next(folder for folder in (Path(store.root), *Path(store.root).parents) if os.path.lexists(folder))
    if not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
        number = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        why = why_not_made(store.root, OSError(number, os.strerror(number)))
        raise DatasetError(f"{store.root} cannot be written: {why}")


def stored_where_unset(store: Store, config: PrepareConfig) -> PrepareConfig:
    """Settings with the thresholds and shard size in force where unset: `lipforge pack` may have changed them."""
    record = read_dataset(store)
    if record is None:
        return config
    _require_format(store, record)
    stored = stored_config(store, record)
    unset = {name: getattr(stored, name) for name in ("thresholds", "pack") if name not in config.model_fields_set}
    return config.model_copy(update=unset)
