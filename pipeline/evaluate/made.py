"""Make the videos that are judged: each clip with its own sound, with silence, and with another clip's sound."""

import wave
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lipforge.model.clock import FPS, SAMPLE_RATE_HZ
from lipforge.pipeline.evaluate.inputs import Item
from lipforge.pipeline.evaluate.metrics import Sound
from lipforge.pipeline.infer.protocols import OnProgress
from lipforge.pipeline.infer.request import InferConfig, InferError
from lipforge.pipeline.infer.run import infer
from lipforge.pipeline.media.audio import PCM_SCALE, read_audio
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.source_file import NotThereError

VIDEOS = "videos"


def partners(items: Sequence[Item]) -> list[int | None]:
    """For each item, whose sound it gets as a foreign one: that of the next, where known by another speaker."""
    found: list[int | None] = []
    for number, item in enumerate(items):
        others = [(number + step) % len(items) for step in range(1, len(items))]
        strangers = [other for other in others if _are_strangers(item, items[other])]
        found.append(next(iter(strangers or others), None))
    return found


def _are_strangers(one: Item, other: Item) -> bool:
    return one.speaker is not None and other.speaker is not None and one.speaker != other.speaker


class Maker:
    """Draws with one model into REPORT/videos/KIND/NAME.mp4. What is there already is kept."""

    def __init__(self, report: Path, items: Sequence[Item], config: InferConfig, seconds: float) -> None:
        """items: the originals."""
        self.folder, self.items, self.seconds = report / VIDEOS, items, seconds
        self.config = config.model_copy(update={"extend": "trim", "audio_end": "silence", "face": "largest"})
        self.partners = partners(items)

    def make(self, number: int, on_progress: OnProgress) -> tuple[Item, dict[Sound, str]]:
        """(an item of what was made, with the original as reference; why others could not be made)

        Raises StorageError, ModelFileError.
        """
        original = self.items[number]
        made: dict[Sound, str] = {}
        reasons: dict[Sound, str] = {}
        for sound in Sound:
            try:
                made[sound] = str(self._made(sound, number, on_progress))
            except (InferError, MediaError, NotThereError) as error:
                reasons[sound] = str(getattr(error, "detail", None) or error)
        own = made.pop(Sound.OWN, None)
        item = replace(original, video=own or original.video, reference=original.video, made=made)
        return item, reasons

    def _made(self, sound: Sound, number: int, on_progress: OnProgress) -> Path:
        item = self.items[number]
        out = self.folder / sound.value / f"{item.name}.mp4"
        if out.exists():
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        if sound is Sound.OWN:
            infer(item.video, item.video, str(out), self.config, on_progress, limit_s=self.seconds)
            return out
        partner = self.partners[number]
        if sound is Sound.FOREIGN and partner is None:
            raise InferError("there is no other clip whose sound it could get")
        length_s = min(self.seconds, probe(item.video).num_frames / FPS)
        samples = np.zeros(round(length_s * SAMPLE_RATE_HZ), np.float32)
        if sound is Sound.FOREIGN and partner is not None:
            samples = np.resize(_sound_of(self.items[partner].video, self.seconds), len(samples))
        wav = out.with_name(f".{out.name}.wav")
        _write_wav(wav, samples)
        infer(item.video, str(wav), str(out), self.config, on_progress, limit_s=self.seconds)
        wav.unlink()
        return out


def _sound_of(video: str, seconds: float) -> np.ndarray:
    """float32 [N]. Raises MediaError for a video without sound."""
    info = probe(video)
    samples = read_audio(video, info, 0, min(info.num_frames, round(seconds * FPS))).samples
    if not samples.any():
        raise InferError(f"{video}, whose sound it would get, has none")
    return samples


def _write_wav(path: Path, samples: np.ndarray) -> None:
    pcm = np.clip(np.rint(samples * PCM_SCALE), -PCM_SCALE, PCM_SCALE - 1).astype("<i2").tobytes()
    if path.is_file() and path.read_bytes().endswith(pcm) and path.stat().st_size == len(pcm) + 44:
        return  # of a run that was stopped: as it was, so that what was drawn of it counts
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(pcm)
