"""Open a dataset for writing: one writer at a time, one set of settings and models for all that is in it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from model import weights
from pipeline.config import PrepareConfig, parse_value, validated
from pipeline.ledger import DatasetError, Ledger
from pipeline.storage import Store
from pipeline.summary import versions


def resolve(config: PrepareConfig, models: Mapping[str, bytes]) -> tuple[PrepareConfig, dict[str, str]]:
    """Fill in what depends on the models; and the hashes that every row carries."""
    from model.lip_sync import DEFAULT_MIN_CONFIDENCE
    from model.quality import PictureQuality
    from model.speech import SpeechDetector

    if config.thresholds.min_sync_confidence is None:
        thresholds = config.thresholds.model_copy(update={"min_sync_confidence": DEFAULT_MIN_CONFIDENCE})
        config = config.model_copy(update={"thresholds": thresholds})
    files = (SpeechDetector().model_file, PictureQuality().model_file)
    everything = {**models, **{file.name: file.read_bytes() for file in files}}
    return config, {"config_hash": config.config_hash(), "models_hash": weights.models_hash(everything)[:16]}


def open_dataset(ledger: Ledger, config: PrepareConfig, hashes: dict[str, str]) -> None:
    """Begin a dataset, or make sure that this run fits the one that is there."""
    plain = config.model_dump(mode="json")
    record = ledger.read_dataset()
    if record is None:
        if next(ledger.contents(), None) is not None:
            raise DatasetError(
                f"{ledger.store.root} has lost ledger/dataset.json, which says how it was made. Put it back from a copy, or use a new folder."
            )
        ledger.write_dataset(
            {"config": plain, "measuring": config.measuring(), "hashes": hashes, "versions": versions()}
        )
        return
    where = ledger.store.root
    advice = f"Use a new folder, or the settings that {where} was made with (ledger/dataset.json)."
    if record["hashes"]["config_hash"] != hashes["config_hash"]:
        changed = _differences(record["measuring"], config.measuring())
        raise DatasetError(f"{where} was made with other settings: {'; '.join(changed)}. {advice}")
    if record["hashes"]["models_hash"] != hashes["models_hash"]:
        raise DatasetError(f"{where} was made with other model files. {advice}")
    changed = _differences(record["config"]["thresholds"], plain["thresholds"])
    if changed:
        raise DatasetError(
            f"{where} has other thresholds: {'; '.join(changed)}. Nothing needs to be measured again: apply them with "
            "`lipforge pack`, or run prepare with those of the dataset."
        )
    if record["config"]["pack"] != plain["pack"]:
        raise DatasetError(f"{where} has shards of another size ({record['config']['pack']}). {advice}")


def require_dataset(ledger: Ledger, out: str) -> dict[str, Any]:
    record = ledger.read_dataset()
    if record is None:
        raise DatasetError(
            f"{out} is not a dataset: there is no ledger/dataset.json. Make one with `lipforge prepare`."
        )
    return record


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
        if not separator or name not in tree["thresholds"]:
            raise ValueError(
                f"--set {change}: expected one of {', '.join(tree['thresholds'])}, for example min_quality=50"
            )
        tree["thresholds"][name] = number = parse_value(value, change)
        if number is None:
            raise ValueError(f"--set {change}: expected a number")
    if shard_size_mb is not None:
        tree["pack"]["shard_size_mb"] = shard_size_mb
    return validated(tree)


@contextmanager
def writing(store: Store) -> Iterator[None]:
    """Hold the dataset for this command, or say who has it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(store.only_writer())
        except BlockingIOError as error:
            raise DatasetError(f"{store.root} is being written by another command. Wait for it or stop it.") from error
        except OSError as error:
            raise DatasetError(f"{store.root} cannot be written: {error.strerror}") from error
        yield


def stored_where_unset(ledger: Ledger, config: PrepareConfig) -> PrepareConfig:
    """Thresholds and shard size that nobody asked to change are those of the dataset: `lipforge pack` may have changed them."""
    record = ledger.read_dataset()
    if record is None:
        return config
    stored = PrepareConfig.model_validate(record["config"])
    unset = {name: getattr(stored, name) for name in ("thresholds", "pack") if name not in config.model_fields_set}
    return config.model_copy(update=unset)
