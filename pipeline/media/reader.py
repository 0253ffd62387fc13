"""All reading and writing of media: probe, decode, resample onto one clock, encode. The only PyAV code.

The clock: time 0 is the first frame of the video stream, as presented. Frame n of the 25 fps grid is shown from n / 25 s;
audio sample k of the 16 kHz grid is heard at k / 16000 s. Both come from the presentation timestamps of their streams, so a
late audio track, an edit list, a negative start or a variable frame rate need no special case.
"""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import av
import av.container
import av.error
import av.stream
import cv2
import fsspec
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from lipforge.datasets_manifest.schema import Reason
from lipforge.model.clock import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from lipforge.pipeline.config import EncodeConfig

T = TypeVar("T")

# A frame's own `reformat` sets a scaler up anew for every frame: a fifth of the cost. One for each use, and one thread a process.
_TO_RGB, _TO_THUMBNAIL, _TO_YUV = VideoReformatter(), VideoReformatter(), VideoReformatter()

SEEK_PREROLL_S = 2.0
"""Audio decoders need a little sound before the first sample that is right."""
PCM_SCALE = 32_768
"""16-bit steps of amplitude 1: samples that come as 16 bit leave as the same 16 bit."""
SEEK_BACK_S = (0.0, 2.0, 20.0)
"""How much before a wanted key frame to look for it, in turn."""
SEEK_GIVE_UP_S = 1.0
"""A key frame that has not come when others are this much later was passed over."""
AUDIO_JUMP_S = 0.03
"""Timestamps this far from where the samples put them mean a gap or an overlap, not rounding."""
JUMP_BACK_S = 1.0
"""Decoding times never fall; a fall beyond what sloppy muxers do is another recording that follows."""
JUMP_AHEAD_S = 600.0
"""A picture that stands still for so long is a jump of the clock."""
LONGEST_S = 48 * 3600.0
"""What a header promises beyond the packets is believed up to this length."""
MAX_DEMUX_ERRORS = 100
"""Read errors in a row after which a file is taken to have ended."""
FOREIGN_FORMATS = (
    "hls",
    "dash",
    "concat",
    "tty",
    "sdp",
    "rtsp",
    "lavfi",
    "image2",
    "ffmetadata",
    "srt",
    "webvtt",
    "ass",
)
"""Demuxers that fetch other files, or see pictures in text."""


class MediaError(Exception):
    """A file that cannot be used, with the reason for the manifest."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds, from its packets rather than from its header."""

    width_px: int
    """As displayed, after rotation."""
    height_px: int
    rotation_deg: int
    """Clockwise turn that makes the decoded picture upright: 0, 90, 180 or 270."""
    mean_fps: float
    num_frames: int
    """On the 25 fps grid, including frames that the header promises and the file lacks."""
    origin_s: float
    """Presentation time of the first video frame in the file's own time: our time 0."""
    key_times_s: tuple[float, ...]
    """Key frames, on our clock. Spans of a long video start there."""
    has_audio: bool
    video_codec: str
    audio_codec: str


@contextmanager
def open_media(uri: str) -> Iterator[av.container.InputContainer]:
    """Open a local path or fsspec URL for reading; MediaError(unreadable) when it is not a media file."""
    # A path is passed as a `file:` URL, or FFmpeg would take `concat:x` or a leading dash for something else.
    # Nothing but files may be opened: a playlist named .mp4 must not reach the network.
    remote = None
    try:
        if "://" in uri:
            remote = cast(Any, fsspec.open(uri, "rb")).open()
            container = av.open(remote, mode="r", metadata_errors="replace")
        else:
            options = {"protocol_whitelist": "file"}
            container = av.open("file:" + os.path.abspath(uri), container_options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if remote is not None:
            remote.close()
        raise MediaError(Reason.UNREADABLE, f"not a media file that can be opened: {_words(error)}") from error
    try:
        names = container.format.name.split(",")
        if any(name in FOREIGN_FORMATS or name.endswith("_pipe") for name in names):
            raise MediaError(Reason.UNREADABLE, f"not a video file (looks like {container.format.name})")
        yield cast(av.container.InputContainer, container)
    finally:
        container.close()
        if remote is not None:
            remote.close()


def _words(error: BaseException) -> str:
    """The system's words for an error, without paths: they would differ between machines."""
    return getattr(error, "strerror", None) or type(error).__name__


def _video_stream(container: av.container.InputContainer) -> Any:
    """First video stream that is not a cover picture, or None."""
    for stream in container.streams.video:
        attached = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if not attached and stream.codec_context is not None:
            return stream
    return None


def _audio_stream(container: av.container.InputContainer) -> Any:
    """The track a player would choose, or None. Tracks without a decoder are passed over."""
    usable = [stream for stream in container.streams.audio if stream.codec_context is not None]
    default = [stream for stream in usable if stream.disposition & av.stream.Disposition.default]
    return (default or usable or [None])[0]


def _packets(container: av.container.InputContainer, stream: Any) -> Iterator[Any]:
    """Packets of one stream, then None for the end. Passes over damage between packets."""
    errors = 0
    while True:
        try:
            for packet in container.demux(stream):
                errors = 0
                yield packet if packet.size else None
            return
        except av.error.EOFError:
            break
        except (av.error.FFmpegError, OSError):
            errors += 1
            if errors > MAX_DEMUX_ERRORS:
                break
    yield None


def _packets_from(container: av.container.InputContainer, stream: Any, origin_s: float, key_s: float) -> Iterator[Any]:
    """Packets of one stream from the key frame at key_s (on our clock), or from the beginning when seeking cannot find it.

    Formats without an index (MPEG-TS, MPEG-PS) land behind the wanted packet, or give wrong times there: so what is found is checked.
    """
    for back_s in SEEK_BACK_S if key_s > 0 else ():
        with suppress(av.error.FFmpegError):
            container.seek(int((origin_s + key_s - back_s) / stream.time_base), stream=stream, backward=True)
            packets = _packets(container, stream)
            for packet in packets:
                time_s = None if packet is None else _time_s(packet, stream.time_base)
                if packet is None or (time_s is not None and time_s - origin_s > key_s + SEEK_GIVE_UP_S):
                    break
                if packet.is_keyframe and time_s is not None and abs(time_s - origin_s - key_s) < 1e-3:
                    yield packet
                    yield from packets
                    return
    if key_s > 0:
        container.seek(0, backward=True)
    yield from _packets(container, stream)


def _in_decode_order(container: av.container.InputContainer) -> bool:
    """True for AVI, which times packets in the order of decoding: FFmpeg's presentation times are guesses there."""
    return container.format.name == "avi"


def _time_s(item: Any, time_base: Any) -> float | None:
    stamp = item.pts if item.pts is not None else item.dts
    return None if stamp is None else float(stamp * time_base)


def probe(uri: str) -> VideoInfo:
    """Read every packet header of a file and say what is in it. Nothing is decoded but one frame.

    Raises MediaError: unreadable, no_video, decode_error.
    """
    with open_media(uri) as container:
        stream = _video_stream(container)
        if stream is None:
            raise MediaError(Reason.NO_VIDEO, "no video stream")
        audio = _audio_stream(container)
        times_s: list[float] = []
        key_times_s: list[float] = []
        decode_times_s: list[float] = []
        num_packets = 0
        for packet in _packets(container, stream):
            if packet is None:
                break
            num_packets += 1
            if _in_decode_order(container):
                packet.pts = packet.dts
            time_s = _time_s(packet, stream.time_base)
            if packet.is_discard or time_s is None:
                continue
            times_s.append(time_s)
            if packet.dts is not None:
                decode_times_s.append(float(packet.dts * stream.time_base))
            if packet.is_keyframe:
                key_times_s.append(time_s)
        if not times_s:
            raise MediaError(Reason.DECODE_ERROR, "the video stream holds no frames")
        times_s.sort()
        _check_jumps(decode_times_s, times_s)
        origin_s, last_s = times_s[0], times_s[-1]
        steps_s = np.diff(np.asarray(times_s))
        steps_s = steps_s[steps_s > 1e-4]
        guessed_s = 1 / float(stream.guessed_rate or FPS)
        step_s = float(np.median(steps_s)) if len(steps_s) else guessed_s
        seconds = last_s - origin_s + min(step_s, 1.0)
        # MP4 counts its samples: those that the file no longer holds are lost seconds, not seconds that never were.
        # AVI counts in steps of time, with or without a picture.
        if _in_decode_order(container):
            promised_s = stream.frames * float(stream.time_base)
        else:
            promised_s = seconds + (stream.frames - num_packets) * step_s
        if seconds < promised_s < LONGEST_S:  # beyond, the header lies
            seconds = promised_s
        rotation_deg, width_px, height_px = _geometry(uri)
        return VideoInfo(
            width_px=width_px,
            height_px=height_px,
            rotation_deg=rotation_deg,
            mean_fps=round(len(times_s) / max(last_s - origin_s + step_s, 1e-6), 3),
            num_frames=max(1, round(seconds * FPS)),
            origin_s=origin_s,
            key_times_s=tuple(round(time_s - origin_s, 6) for time_s in sorted(key_times_s)),
            has_audio=audio is not None,
            video_codec=stream.codec_context.name,
            audio_codec=audio.codec_context.name if audio is not None else "",
        )


def _check_jumps(decode_times_s: list[float], times_s: list[float]) -> None:
    """MediaError when the clock of a file is set back or far ahead: recordings put one behind the other, or damage.

    There, one time stands for two pictures, and the sound of one part would lie under the picture of another.
    """
    for stamps_s, lowest_s, highest_s in ((decode_times_s, -JUMP_BACK_S, np.inf), (times_s, 0.0, JUMP_AHEAD_S)):
        steps_s = np.diff(np.asarray(stamps_s))
        jumps = np.flatnonzero((steps_s < lowest_s) | (steps_s > highest_s))
        if len(jumps):
            step_s, at_s = steps_s[jumps[0]], stamps_s[jumps[0]] - stamps_s[0]
            detail = (
                f"the time stamps jump by {step_s:+.1f} s after {at_s:.1f} s: split the file there, or write it anew"
            )
            raise MediaError(Reason.DECODE_ERROR, detail)


def _geometry(uri: str) -> tuple[int, int, int]:
    """(rotation, width, height) of the first frame that can be decoded: headers are often wrong about it."""
    with open_media(uri) as container:
        stream = _video_stream(container)
        stream.codec_context.thread_count = 1
        failures = 0
        for packet in _packets(container, stream):
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                failures += 1
                if failures > MAX_DEMUX_ERRORS:
                    break
                frames = []
            for frame in frames:
                rotation_deg = round(-frame.rotation / 90) * 90 % 360
                width_px, height_px = frame.width, frame.height
                if rotation_deg in (90, 270):
                    width_px, height_px = height_px, width_px
                return rotation_deg, width_px, height_px
            if packet is None:
                break
    raise MediaError(Reason.DECODE_ERROR, "no frame of the video stream can be decoded")


@dataclass
class DecodeCount:
    """How often source frames were decoded."""

    decoded: int = 0
    """Frames that came out of the decoder, wanted or not."""
    wanted: int = 0
    """Distinct source frames of the span."""

    @property
    def passes(self) -> float:
        return round(self.decoded / self.wanted, 3) if self.wanted else 0.0


@dataclass
class SourceFrame:
    """A frame as the source has it, before it is put onto the grid."""

    time_s: float
    """On our clock."""
    picture: av.VideoFrame | None
    """None where the source cannot be decoded."""
    shot_index: int = 0


def to_grid(frames: Iterable[tuple[float, T]], start_frame: int, end_frame: int) -> Iterator[tuple[int, T | None]]:
    """Choose for each grid time n / 25 s the frame that is shown then.

    frames: (time in seconds, anything), times ascending. Chosen is the nearest of those that start less than half a grid frame
    later; so frame rates above 25 are thinned without bias, and a gap holds its last picture instead of showing the next
    one early. Grid frames before the first source frame take that one; with no frames at all they get None.
    """
    half_s = 0.5 / FPS
    tolerance_s = 1e-4
    iterator = iter(frames)
    current: tuple[float, T] | None = None
    following = next(iterator, None)
    for index in range(start_frame, end_frame):
        wanted_s = index / FPS
        while following is not None:
            later_s = following[0] - wanted_s
            if later_s >= half_s - tolerance_s:
                break
            if current is not None and later_s > abs(wanted_s - current[0]):
                break  # both are near; the earlier one is nearer
            current, following = following, next(iterator, None)
        if current is None:
            yield index, following[1] if following is not None else None
        else:
            yield index, current[1]


def decode_video(
    uri: str, info: VideoInfo, start_frame: int, end_frame: int, count: DecodeCount | None = None
) -> Iterator[SourceFrame]:
    """Decode, once, the source frames that the grid frames [start_frame, end_frame) need, in presentation order.

    Begins at the key frame before the span and ends a little after it. A frame that cannot be decoded comes without its picture,
    and so do those that are predicted from it, up to the next key frame: decoders would show smeared pictures there.
    """
    count = count or DecodeCount()
    start_s, end_s = start_frame / FPS, end_frame / FPS
    with open_media(uri) as container:
        stream = _video_stream(container)
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"err_detect": "explode"}  # damage is an error, not a guess at what the picture was
        key_s = max((time_s for time_s in info.key_times_s if time_s <= start_s + 1e-6), default=0.0)
        pending = _Pending(_in_decode_order(container))
        previous_s = -np.inf
        damaged = False
        for packet in _packets_from(container, stream, info.origin_s, key_s):
            if packet is not None and not packet.is_discard:
                pending.put(packet, stream.time_base, info.origin_s)
            try:
                frames = context.decode(packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                frames = []
                damaged = True
                pending.refused()
            for frame in frames:
                count.decoded += 1
                time_s = _time_s(frame, stream.time_base)
                time_s, lost = pending.take(None if time_s is None else time_s - info.origin_s, previous_s, frame)
                time_s = previous_s + 1 / FPS if time_s is None else time_s
                if time_s <= previous_s:
                    continue  # broken timestamps: the clock never runs backwards
                for lost_s in lost:
                    damaged = True
                    yield SourceFrame(lost_s, None)
                if frame.key_frame:
                    damaged = False
                previous_s = time_s
                count.wanted += start_s - 0.5 / FPS <= time_s < end_s + 0.5 / FPS
                yield SourceFrame(time_s, None if damaged or frame.is_corrupt else frame)
            if previous_s > end_s + 1 / FPS:
                return
            if packet is None:
                break
        for lost_s in sorted(p for p in pending.times_s if p > previous_s):
            previous_s = lost_s
            yield SourceFrame(lost_s, None)
        if previous_s > -np.inf and (end_s - previous_s) > 1.5 / FPS and end_s * FPS >= info.num_frames - 1:
            yield SourceFrame(_end_of_packets_s(info, previous_s), None)


class _Pending:
    """Times of packets that went into a decoder and have not come out of it as pictures."""

    def __init__(self, in_decode_order: bool) -> None:
        self.in_decode_order = in_decode_order
        self.times_s: list[float] = []

    def put(self, packet: Any, time_base: Any, origin_s: float) -> None:
        if self.in_decode_order:
            packet.pts = packet.dts
        time_s = _time_s(packet, time_base)
        if time_s is not None:
            self.times_s.append(time_s - origin_s)

    def refused(self) -> None:
        """The last packet will not come out: it must not give its time to another."""
        if self.in_decode_order and self.times_s:
            self.times_s.pop()

    def take(self, time_s: float | None, previous_s: float, frame: Any) -> tuple[float | None, list[float]]:
        """(time of this picture, times since the previous one whose pictures did not come). time_s: what the decoder says."""
        if self.in_decode_order and self.times_s:
            time_s = min(self.times_s)  # the n-th picture out is shown at the n-th time
            self.times_s.remove(time_s)
            return time_s, []
        if time_s is None:
            return None, []
        lost = sorted(p for p in self.times_s if previous_s < p < time_s - 1e-6)
        self.times_s = [p for p in self.times_s if p > time_s + 1e-6]
        if previous_s == -np.inf:
            return time_s, []
        # Field-coded video has two packets to a frame: the second field is not lost, it has no time of its own.
        return time_s, lost[1:] if frame.interlaced_frame else lost


def _end_of_packets_s(info: VideoInfo, last_s: float) -> float:
    """Where promised but missing frames begin: one source frame after the last that came."""
    return last_s + 1 / max(info.mean_fps, 1.0)


def upright_rgb(frame: av.VideoFrame, info: VideoInfo) -> np.ndarray:
    """uint8 [H, W, 3] RGB, turned upright, of the size that `info` says. MediaError for pictures that cannot be read."""
    # HD material without a colour tag is BT.709 by convention; swscale would assume BT.601.
    unspecified = frame.colorspace == 2
    source = Colorspace.ITU709 if unspecified and frame.height >= 720 else None
    try:
        rgb = _TO_RGB.reformat(frame, format="rgb24", src_colorspace=source).to_ndarray()
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(Reason.DECODE_ERROR, f"pictures of format {frame.format.name} cannot be read") from error
    if info.rotation_deg:
        turns = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
        rgb = cv2.rotate(rgb, turns[info.rotation_deg])
    if rgb.shape[:2] != (info.height_px, info.width_px):  # a stream may change its size on the way
        rgb = cv2.resize(rgb, (info.width_px, info.height_px), interpolation=cv2.INTER_AREA)
    return rgb


def thumbnail_bgr(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] BGR, not turned, scaled straight from the decoder's own planes."""
    small = _TO_THUMBNAIL.reformat(frame, width=width, height=height, format="bgr24", interpolation="FAST_BILINEAR")
    return small.to_ndarray()


def read_audio(uri: str, info: VideoInfo, start_frame: int, end_frame: int) -> np.ndarray:
    """Sound of the grid frames [start_frame, end_frame): float32 [(end - start) * 640], mono, 16 kHz, in [-1, 1].

    start_frame may be negative. Zeros where the source has no sound or it cannot be decoded. All channels are mixed down.
    """
    samples = np.zeros((end_frame - start_frame) * SAMPLES_PER_FRAME, dtype=np.float32)
    if not info.has_audio:
        return samples
    start_s, end_s = start_frame / FPS, end_frame / FPS
    for time_s, piece in _decode_audio(uri, info, start_s, end_s):
        first = round((time_s - start_s) * SAMPLE_RATE_HZ)
        begin, end = max(first, 0), min(first + len(piece), len(samples))
        if begin < end:
            samples[begin:end] = piece[begin - first : end - first]
    return samples


def _decode_audio(uri: str, info: VideoInfo, start_s: float, end_s: float) -> Iterator[tuple[float, np.ndarray]]:
    """(time of the first sample, samples) of each uninterrupted stretch, mono 16 kHz."""
    with open_media(uri) as container:
        stream = _audio_stream(container)
        context = stream.codec_context
        wanted_s = info.origin_s + start_s - SEEK_PREROLL_S
        if start_s > SEEK_PREROLL_S:
            container.seek(int(wanted_s / stream.time_base), stream=stream, backward=True)
        stretch: _Stretch | None = None
        for packet in _packets(container, stream):
            try:
                frames = context.decode(packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                continue
            for frame in frames:
                time_s = _time_s(frame, stream.time_base)
                if time_s is not None:
                    time_s -= info.origin_s
                if stretch is not None and not stretch.continues(frame, time_s):
                    yield stretch.finish()
                    stretch = None
                if stretch is None:
                    if time_s is None:
                        continue
                    stretch = _Stretch(frame, time_s)
                stretch.add(frame)
            if packet is None or (stretch is not None and stretch.end_s > end_s + SEEK_PREROLL_S):
                break
        if stretch is not None:
            yield stretch.finish()


class _Stretch:
    """Audio frames that follow one another without a gap, through one resampler."""

    def __init__(self, frame: Any, start_s: float) -> None:
        self.kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        self.start_s = start_s
        self.num_samples_in = 0
        # Into 16 bit: there the library scales a mix of channels down, and in float it lets it grow beyond [-1, 1].
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        self.pieces: list[np.ndarray] = []

    @property
    def end_s(self) -> float:
        return self.start_s + self.num_samples_in / self.kind[2]

    def continues(self, frame: Any, time_s: float | None) -> bool:
        if (frame.format.name, frame.layout.name, frame.sample_rate) != self.kind:
            return False
        return time_s is None or abs(time_s - self.end_s) < AUDIO_JUMP_S

    def add(self, frame: Any) -> None:
        self.num_samples_in += frame.samples
        frame.pts = None  # the resampler must count samples; our clock is start_s
        self.pieces.extend(out.to_ndarray()[0] for out in self.resampler.resample(frame))

    def finish(self) -> tuple[float, np.ndarray]:
        self.pieces.extend(out.to_ndarray()[0] for out in self.resampler.resample(None))
        samples = np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int16)
        return self.start_s, samples.astype(np.float32) / PCM_SCALE


def encode_mp4(frames: np.ndarray, config: EncodeConfig) -> bytes:
    """H.264 in MP4 at 25 fps, yuv420p BT.709, closed GOPs. frames: uint8 [T, H, W, 3] RGB, even sides.

    One thread, no dates and no B-frames: the same frames give the same bytes anywhere.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {
            "preset": config.preset,
            "crf": str(config.crf),
            "threads": "1",
            "x264-params": f"keyint={config.gop_frames}:min-keyint=1:scenecut=0:open-gop=0:bframes=0:threads=1:"
            "colorprim=bt709:transfer=bt709:colormatrix=bt709",
        }
        stream: Any = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = 1
        stream.codec_context.color_range = 1
        for rgb in frames:
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture = _TO_YUV.reformat(
                picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def encode_flac(samples: np.ndarray) -> bytes:
    """FLAC, mono, 16 kHz, 16 bit. samples: float32 [N] in [-1, 1]."""
    buffer = io.BytesIO()
    pcm = np.clip(np.round(samples * PCM_SCALE), -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)
    with av.open(buffer, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("flac", rate=SAMPLE_RATE_HZ, layout="mono", format="s16")
        for first in range(0, len(pcm), 4096):
            frame = av.AudioFrame.from_ndarray(pcm[None, first : first + 4096], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            frame.pts = first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_mp4(mp4: bytes) -> np.ndarray:
    """The frames of a clip that `encode_mp4` wrote: uint8 [T, H, W, 3] RGB. Raises MediaError when they cannot be decoded."""
    try:
        with av.open(io.BytesIO(mp4), "r", format="mp4") as container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = [
                _TO_RGB.reformat(frame, format="rgb24", src_colorspace=Colorspace.ITU709).to_ndarray()
                for frame in container.decode(video=0)
            ]
    except (av.error.FFmpegError, IndexError) as error:
        raise MediaError(Reason.DECODE_ERROR, f"the clip's video: {_words(error)}") from error
    if not frames:
        raise MediaError(Reason.DECODE_ERROR, "the clip's video holds no frame")
    return np.stack(frames)


def decode_flac(flac: bytes) -> np.ndarray:
    """The samples that `encode_flac` wrote: float32 [N], mono, 16 kHz. Raises MediaError when they cannot be decoded."""
    try:
        with av.open(io.BytesIO(flac), "r", format="flac") as container:
            stream = container.streams.audio[0]
            if (stream.rate, stream.channels) != (SAMPLE_RATE_HZ, 1):
                words = f"the clip's sound has {stream.channels} channels at {stream.rate} Hz, 1 at {SAMPLE_RATE_HZ} expected"
                raise MediaError(Reason.DECODE_ERROR, words)
            pieces = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    except (av.error.FFmpegError, IndexError) as error:
        raise MediaError(Reason.DECODE_ERROR, f"the clip's sound: {_words(error)}") from error
    if not pieces:
        raise MediaError(Reason.DECODE_ERROR, "the clip's sound holds no sample")
    return np.concatenate(pieces).astype(np.float32) / PCM_SCALE


def encode_jpeg(rgb: np.ndarray, longest_side_px: int = 160) -> bytes:
    """Small JPEG of a picture, uint8 [H, W, 3] RGB."""
    scale = min(1.0, longest_side_px / max(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert ok
    return data.tobytes()
