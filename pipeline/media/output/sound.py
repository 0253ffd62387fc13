"""The new sound as given: its own rate and channels, on one clock, with silence where it has none."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error
import numpy as np

from lipforge.datasets_manifest.schema import Reason
from lipforge.pipeline.media.audio import AUDIO_JUMP_S, RATES_HZ
from lipforge.pipeline.media.channels import channels_of, keep_labels, plain_layout
from lipforge.pipeline.media.container import (
    MediaError,
    audio_stream,
    open_media,
    read_packets,
    timestamp_s,
    video_stream,
)

MOST_DAMAGE = 0.05
"""Share of packets that may be damaged; a sound with more is refused."""
_FIRST_VIDEO_PACKETS = 32
"""Among these is the first frame that is shown: decoders hold back at most 16."""
_PACKED = {"u1": "u8", "i2": "s16", "i4": "s32", "f4": "flt", "f8": "dbl"}
"""FFmpeg's name of interleaved samples of each NumPy type."""


@dataclass(frozen=True)
class SoundTrack:
    """What a sound file holds, from decoding it once. Its time 0: the first sample; in a video, its first frame."""

    uri: str
    codec: str
    """FFmpeg's name of the kind, not of a decoder."""
    rate_hz: int
    layout: str
    num_channels: int
    sample_format: str
    """Packed: u8, s16, s32, flt or dbl."""
    origin_s: float
    """Time 0 in the file's own time."""
    start_s: float
    """Of the first sample. Below 0: it begins before the first frame of its video."""
    duration_s: float
    """End of the last sample."""
    lead_s: float
    """How long before `start_s` its packets begin: what a decoder drops (AAC, MP3)."""
    is_even: bool
    """One stretch of one kind, without a gap or damage."""
    language: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_lossless(self) -> bool:
        return self.codec in ("flac", "alac", "wavpack", "tta", "ape") or self.codec.startswith("pcm_")


def open_sound(uri: str) -> SoundTrack:
    """Decodes a sound, or the default sound of a video, to know its exact length; keeps none of it.

    Raises MediaError where it is no media, has no sound or no samples, or is damaged; NotThereError; StorageError.
    """
    with open_media(uri) as container:
        stream = audio_stream(container)
        if stream is None:
            raise MediaError(Reason.UNREADABLE, "there is no sound in it that can be decoded")
        in_video = video_stream(container) is not None
        codec = stream.codec_context.codec.canonical_name
        language = stream.language
        packet = next(read_packets(container, stream))
        first_packet_s = None if packet is None else timestamp_s(packet, stream.time_base)
    origin_s = _first_picture_s(uri) if in_video else None
    first: _Heard | None = None
    stretch_s, num_samples, is_even, damage = 0.0, 0, True, _Damage()
    rate_hz = 1
    for heard in _decode(uri, damage):
        if first is None:
            first, stretch_s = heard, heard.time_s
            origin_s = heard.time_s if origin_s is None else origin_s
        elif heard.kind != first.kind or abs(heard.time_s - stretch_s - num_samples / rate_hz) >= AUDIO_JUMP_S:
            stretch_s, num_samples, is_even = heard.time_s, 0, False
        if heard.frame.format.name[:3] in ("flt", "dbl") and not np.isfinite(heard.frame.to_ndarray()).all():
            raise MediaError(Reason.DECODE_ERROR, "the sound is damaged: it holds samples that are not finite numbers")
        rate_hz = heard.frame.sample_rate
        num_samples += heard.frame.samples
    if first is None or origin_s is None:
        raise MediaError(Reason.UNREADABLE, "the sound has no samples, or none that can be decoded")
    end_s = stretch_s + num_samples / rate_hz
    if damage.bad > MOST_DAMAGE * damage.packets:
        raise MediaError(Reason.DECODE_ERROR, f"the sound is damaged: {damage.bad} of {damage.packets} packets")
    if end_s <= origin_s:
        raise MediaError(Reason.UNREADABLE, "the sound ends before the first picture of its video")
    notes = [f"{damage.bad} packets of the sound are damaged: silence takes their place"] if damage.bad else []
    return SoundTrack(
        uri=uri,
        codec=codec,
        rate_hz=first.frame.sample_rate,
        layout=first.frame.layout.name,
        num_channels=first.frame.layout.nb_channels,
        sample_format=_PACKED[_narrow(channels_of(first.frame)).dtype.str[1:]],
        origin_s=origin_s,
        start_s=first.time_s - origin_s,
        duration_s=end_s - origin_s,
        lead_s=max(0.0, first.time_s - (first.time_s if first_packet_s is None else first_packet_s)),
        is_even=is_even and not damage.bad,
        language=language,
        notes=tuple(notes),
    )


def read_samples(track: SoundTrack, num_samples: int) -> Iterator[np.ndarray]:
    """Samples 0 to num_samples of a sound at its own rate, right to the sample, silence where it has none.

    Yields arrays [C, N] of the track's sample format, none long.
    """
    line = _Line(track, num_samples)
    for heard in _decode(track.uri, _Damage()):
        yield from line.put(heard)
        if line.num_put >= num_samples:
            return
    yield from line.silence(num_samples)


@dataclass
class _Heard:
    frame: Any
    time_s: float
    """In the file's own time."""

    @property
    def kind(self) -> tuple[str, str, int]:
        return self.frame.format.name, self.frame.layout.name, self.frame.sample_rate


@dataclass
class _Damage:
    packets: int = 0
    bad: int = 0


class _Line:
    """Lays decoded frames at their places."""

    def __init__(self, track: SoundTrack, num_samples: int) -> None:
        self.track, self.num_samples = track, num_samples
        self.num_put = 0
        self._expected: int | None = None
        """Where the next frame of this stretch begins; may be before 0."""
        self._kind: tuple[str, str, int] | None = None
        self._converter: av.AudioResampler | None = None
        self._dtype = next(name for name, packed in _PACKED.items() if packed == track.sample_format)

    def put(self, heard: _Heard) -> Iterator[np.ndarray]:
        rate_hz = self.track.rate_hz
        at = round((heard.time_s - self.track.origin_s) * rate_hz)
        if self._expected is not None and abs(at - self._expected) < AUDIO_JUMP_S * rate_hz:
            at = self._expected
        yield from self.silence(at)
        samples = self._samples(heard)
        self._expected = at + samples.shape[1]
        piece = samples[:, max(0, self.num_put - at) : max(0, self.num_samples - at)]
        if piece.shape[1]:
            self.num_put += piece.shape[1]
            yield piece

    def silence(self, until: int) -> Iterator[np.ndarray]:
        """At most up to the end."""
        while self.num_put < min(until, self.num_samples):
            missing = min(until, self.num_samples) - self.num_put
            piece = np.zeros((self.track.num_channels, min(missing, self.track.rate_hz)), self._dtype)
            if self._dtype == "u1":
                piece += 128
            self.num_put += piece.shape[1]
            yield piece

    def _samples(self, heard: _Heard) -> np.ndarray:
        """As the track's kind: a file may change its own in the middle."""
        frame, track = heard.frame, self.track
        if (frame.layout.name, frame.sample_rate) == (track.layout, track.rate_hz):
            samples = _narrow(channels_of(frame))
            if samples.dtype == np.dtype(self._dtype):
                return samples
        if heard.kind != self._kind:
            self._kind = heard.kind
            self._converter = av.AudioResampler(track.sample_format, layout=track.layout, rate=track.rate_hz)
        assert self._converter is not None
        frame.pts = None
        pieces = [_narrow(channels_of(out)) for out in self._converter.resample(frame)]
        return np.concatenate(pieces, axis=1) if pieces else np.zeros((track.num_channels, 0), self._dtype)


def _narrow(channels: np.ndarray) -> np.ndarray:
    """Integers of 64 bits are written with 32."""
    return (channels >> 32).astype(np.int32) if channels.dtype == np.int64 else channels


def _decode(uri: str, damage: _Damage) -> Iterator[_Heard]:
    """Frames of the sound, in the order of the file. Those without a time follow on from the one before."""
    with open_media(uri) as container:
        stream = audio_stream(container)
        context = stream.codec_context
        plain_layout(context)
        next_s = 0.0
        for packet in read_packets(container, stream):
            damage.packets += packet is not None
            try:
                frames = context.decode(packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                damage.bad += 1
                frames = []
            keep_labels(frames)
            for frame in frames:
                if frame.samples <= 0 or frame.sample_rate not in RATES_HZ:
                    continue
                time_s = timestamp_s(frame, stream.time_base)
                heard = _Heard(frame, next_s if time_s is None else time_s)
                next_s = heard.time_s + frame.samples / frame.sample_rate
                yield heard
            if packet is None:
                break


def _first_picture_s(uri: str) -> float | None:
    """When the first frame of a video is shown, in the file's own time."""
    times_s = []
    with open_media(uri) as container:
        stream = video_stream(container)
        for packet in read_packets(container, stream):
            if packet is None or len(times_s) == _FIRST_VIDEO_PACKETS:
                break
            time_s = timestamp_s(packet, stream.time_base)
            if time_s is not None and not packet.is_discard:
                times_s.append(time_s)
    return min(times_s, default=None)
