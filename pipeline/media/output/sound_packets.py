"""Bring a sound into an output: its packets as they are, or encoded anew."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.container
import av.error
import numpy as np

from lipforge.pipeline.media.channels import one_channel
from lipforge.pipeline.media.container import audio_stream, open_media, read_packets
from lipforge.pipeline.media.downmix import MEAN
from lipforge.pipeline.media.output.containers import FileKind
from lipforge.pipeline.media.output.other_streams import can_hold
from lipforge.pipeline.media.output.sound import SoundTrack, read_samples

SAME_START_S = 1e-3
"""A sound that begins this near to time 0 is taken over; one that begins later gets silence first."""
BITS_PER_CHANNEL = 128_000
"""Bits per second of a sound that has to be encoded with loss."""
MOST_FLAC_CHANNELS = 8
CHUNK = 4096
"""Samples per frame that goes into an encoder."""


class SoundPackets:
    """A sound of exactly `length_s` for one output.

    Taken over without decoding where the kind of file can hold its codec, it is without gaps, begins at 0, and its
    length agrees within a frame. Else encoded at its own rate: cut, or filled with silence, to the nearest sample; AAC
    in files without edit lists (TS) begins and ends with silence of up to 2048 samples more.
    """

    def __init__(self, track: SoundTrack, kind: FileKind, length_s: float, frame_s: float) -> None:
        """frame_s: how long a picture is shown."""
        self.track = track
        self.num_samples = round(length_s * track.rate_hz)
        self.length_s = length_s
        family = "pcm" if track.codec.startswith("pcm_") else track.codec
        self.is_copy = (
            family in kind.copied_audio
            and track.is_even
            and abs(track.start_s) < SAME_START_S
            and (kind.any_rate or track.lead_s < SAME_START_S)  # AVI would move the pictures to make room for it
            and abs(track.duration_s - length_s) <= frame_s
            and _can_hold(kind, track)
        )
        self.notes = list(track.notes)
        self._kind = kind
        self._stream: Any = None
        self._to_mono = False

    def add_to(self, container: av.container.OutputContainer) -> Any:
        """The stream of the output that holds the sound."""
        if self.is_copy:
            with open_media(self.track.uri) as source:
                self._stream = container.add_stream_from_template(audio_stream(source), opaque=True)
            self._stream.metadata.clear()
        else:
            self._stream = self._encoder(container)
        if self.track.language:
            self._stream.metadata["language"] = self.track.language
        return self._stream

    def packets(self) -> Iterator[tuple[float, Any]]:
        """(decoding time in seconds, packet), in order."""
        yield from self._copied() if self.is_copy else self._encoded()

    def _copied(self) -> Iterator[tuple[float, Any]]:
        with open_media(self.track.uri) as source:
            stream = audio_stream(source)
            shift = round(self.track.origin_s / stream.time_base)
            for packet in read_packets(source, stream):
                if packet is None:
                    return
                if packet.pts is None and packet.dts is None:
                    continue
                packet.pts = (packet.dts if packet.pts is None else packet.pts) - shift
                packet.dts = packet.pts
                packet.stream = self._stream
                yield float(packet.pts * stream.time_base), packet

    def _encoded(self) -> Iterator[tuple[float, Any]]:
        context = self._stream.codec_context
        at = 0
        for samples in read_samples(self.track, self.num_samples):
            for first in range(0, samples.shape[1], CHUNK):
                frame = self._frame(samples[:, first : first + CHUNK])
                frame.pts, frame.time_base = at, Fraction(1, self.track.rate_hz)
                at += frame.samples
                yield from self._timed(context.encode(frame))
        yield from self._timed(context.encode(None))

    def _timed(self, packets: list[Any]) -> Iterator[tuple[float, Any]]:
        for packet in packets:
            packet.stream = self._stream
            yield float(packet.dts * packet.time_base), packet

    def _frame(self, samples: np.ndarray) -> av.AudioFrame:
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format=self.track.sample_format, layout=self.track.layout)
        frame.sample_rate = self.track.rate_hz
        if self._to_mono:
            frame = one_channel(frame, MEAN)
        return frame

    def _encoder(self, container: av.container.OutputContainer) -> Any:
        track = self.track
        name, sample_format, options = self._codec()
        layout, rate_hz = track.layout, track.rate_hz
        if name in ("aac", "libopus"):
            rate_hz = _nearest_rate(name, rate_hz)
            if not _takes(name, layout):
                self._to_mono = track.num_channels > 2
                layout = "mono" if self._to_mono or track.num_channels == 1 else "stereo"
                if self._to_mono:
                    self.notes.append(f"{name} cannot hold {track.num_channels} channels ({track.layout}): their mean")
        if rate_hz != track.rate_hz:
            self.notes.append(f"{name} cannot hold a sound of {track.rate_hz} Hz: it has {rate_hz} Hz in the new file")
        stream: Any = container.add_stream(name, rate=rate_hz, options=options)
        stream.codec_context.layout = layout
        if sample_format:
            stream.codec_context.format = sample_format
        if name in ("aac", "libopus"):
            channels = 1 if layout == "mono" else track.num_channels
            stream.codec_context.bit_rate = BITS_PER_CHANNEL * channels
        stream.codec_context.thread_count = 1
        return stream

    def _codec(self) -> tuple[str, str, dict[str, str]]:
        """(encoder, sample format, options): without loss where the kind of file has a place for it."""
        track, encoder = self.track, self._kind.audio_encoder
        wide = track.sample_format in ("s32", "flt", "dbl")
        if self._kind.muxer == "mov" and track.is_lossless:
            encoder = "pcm_s16le"
        if encoder == "flac" and track.num_channels <= MOST_FLAC_CHANNELS and not self._is_float_pcm():
            return "flac", "s32" if wide else "s16", {}
        if encoder in ("flac", "pcm_s16le"):
            if self._is_float_pcm() and self._kind.muxer != "avi":
                return "pcm_f32le", "flt", {}
            return ("pcm_s24le", "s32", {}) if wide and track.is_lossless else ("pcm_s16le", "s16", {})
        return encoder, "flt" if encoder == "libopus" else "fltp", {}

    def _is_float_pcm(self) -> bool:
        return self.track.codec.startswith("pcm_f")


def _can_hold(kind: FileKind, track: SoundTrack) -> bool:
    with open_media(track.uri) as source:
        return can_hold(kind, audio_stream(source))


def _nearest_rate(encoder: str, rate_hz: int) -> int:
    """The lowest rate of an encoder that loses nothing of rate_hz, or else its highest."""
    rates = sorted(av.Codec(encoder, "w").audio_rates or [])
    return next((rate for rate in rates if rate >= rate_hz), rates[-1])


def _takes(encoder: str, layout: str) -> bool:
    context: Any = av.CodecContext.create(encoder, "w")
    context.sample_rate, context.layout = 48_000, layout
    context.format = "flt" if encoder == "libopus" else "fltp"
    try:
        context.open()
    except (av.error.FFmpegError, ValueError):
        return False
    return True
