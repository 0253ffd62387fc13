"""`lipforge prepare`: from inputs to shards and manifest, as a list of what happens."""

from pathlib import Path

import yaml

from lipforge.datasets_manifest.schema import Reason
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.weights.load import ModelFileError
from lipforge.pipeline.config import PrepareConfig
from lipforge.pipeline.flow import Flow
from lipforge.pipeline.ledger.quarantine import clear_attempts
from lipforge.pipeline.ledger.settings import (
    check_set,
    load_models,
    open_dataset,
    resolve,
    stored_where_unset,
    writing,
)
from lipforge.pipeline.publish.languages import WhisperFile, open_whisper
from lipforge.pipeline.publish.publish import publish
from lipforge.pipeline.publish.speakers import VoiceWeights, identify_speakers, open_voice_weights
from lipforge.pipeline.running.executors import make_executor
from lipforge.pipeline.running.progress import Progress
from lipforge.pipeline.running.summary import Summary
from lipforge.pipeline.running.watch import BROKEN
from lipforge.pipeline.running.workers import Job
from lipforge.pipeline.sources.inputs import Labels, find_sources
from lipforge.pipeline.sources.ownership import record_unreadable

TRIED_AGAIN = (Reason.UNREADABLE, Reason.STORAGE_ERROR)
"""Reasons of sources and units that every run tries again."""
RETRIED = (*TRIED_AGAIN, *BROKEN, Reason.DECODE_ERROR)
"""Reasons of those that a run with retry_failed tries again."""


def prepare(
    inputs: list[str],
    out: str,
    config: PrepareConfig,
    labels: Labels,
    progress: Progress,
    retry_failed: bool = False,
) -> Summary:
    """Do the whole job, or what is left of it. Safe to repeat: recorded work is not done again.

    retry_failed: try the sources and units again that crashed their worker, timed out, met a bug or could not be
    decoded in earlier runs.
    Raises ValueError for the user's mistakes, DatasetError with what to do, AccountsError for a bug.
    """
    store = store_of(out)
    check_set(store, config)
    models = load_models(config)  # first: without them nothing can be done
    exclude = Path(store.root) if store.is_local else None
    sources, unreadable, notes = find_sources(inputs, labels, exclude)
    if not sources and not unreadable:
        raise no_videos()
    with writing(store):
        config, hashes = resolve(stored_where_unset(store, config), models)
        open_dataset(store, config, hashes)
        again = RETRIED if retry_failed else TRIED_AGAIN
        with progress.run(store, config, hashes["config_hash"]) as summary:
            settings = yaml.safe_dump(config.model_dump(mode="json")).encode()
            store.write(f"runs/{summary.run_id}/config.yaml", settings)
            progress.unreadable(unreadable)
            progress.labels(notes)
            whisper, voice = _open_whisper(config, progress), _open_voice(config, progress)
            executor = make_executor(config)
            try:
                job = Job(store, config, models, hashes, summary.run_id)
                flow = Flow(job, executor, progress, again, whisper)
                record_unreadable(flow.log, unreadable)
                flow.run(sources)
                if voice is not None:
                    identify_speakers(store, voice, executor.map, progress.voices)
                progress.phase("pack")
                progress.finished(publish(store, config, hashes, executor))
            finally:
                executor.close()
        clear_attempts(store, summary.run_id)
    return summary


def store_of(out: str) -> Store:
    if not out:
        raise ValueError("--out is empty; name a folder")
    return Store(out)


def no_videos() -> ValueError:
    return ValueError("no videos found in the inputs; known endings are mp4, mkv, webm, mov, avi, mpg and similar")


def _open_voice(config: PrepareConfig, progress: Progress) -> VoiceWeights | None:
    """None when speakers are not to be told by voice, or cannot be: then the run notes it and continues."""
    if not config.speaker.by_voice:
        return None
    try:
        return open_voice_weights()
    except ModelFileError as error:
        progress.no_voices(error)
        return None


def _open_whisper(config: PrepareConfig, progress: Progress) -> WhisperFile | None:
    """None when languages are not wanted, or cannot be identified: then the run notes it and continues."""
    if config.language.whisper is None:
        return None
    try:
        return open_whisper(config.language.whisper, config.run.score.gpus)
    except ModelFileError as error:
        progress.no_languages(error)
        return None
