"""The sound of stored clips, for whoever listens to them again."""

import numpy as np

from lipforge.datasets_manifest.sample import read_clip
from lipforge.datasets_manifest.storage.store import Store
from lipforge.pipeline.ledger.records import DatasetError
from lipforge.pipeline.media.clips import decode_flac
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.publish.shards import Place


def clip_sound(store: Store, key: str, place: Place) -> np.ndarray:
    """float32 [N], mono, 16 kHz: the sound of a clip, verified. Raises DatasetError, which names the tar."""
    try:
        data = store.read(*place)
        return decode_flac(read_clip(data, place.size, key)["flac"])
    except FileNotFoundError as error:
        raise DatasetError(f"{store.path(place.tar)} is missing: restore it from a copy") from error
    except (ValueError, MediaError) as error:
        raise DatasetError(
            f"{store.path(place.tar)} is damaged: the audio of clip {key} cannot be read ({error}). "
            "Restore it from a copy."
        ) from error
