"""Make a talking clip from a photograph, by warping the mouth in time with synthetic speech.

python -m tests.talking_photo OUT.mp4 --duration-s 12 --offset 3

The photograph is `skimage.data.astronaut()` (NASA, public domain). A formant synthesiser babbles syllables in phrases,
with pauses. One list of syllables drives both audio and lips, so the offset between them is known exactly. At offset 0
lips lead the audio by 40 ms, as in real speech. The same arguments always give the same pixels and samples.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data
from scipy.signal import lfilter

from lipforge.model.clock import FPS, SAMPLE_RATE_HZ

_CONTROL_HZ = 200  # updates per second of the mouth and the voice
_LIP_LEAD_S = 0.04
"""Lips move tens of milliseconds or more before they are heard (Chandrasekaran et al., The Natural Statistics of
Audiovisual Speech, PLoS Computational Biology 2009). Scorers that learnt from real speech take that for in sync."""
_MARGIN_S = 2.0  # speech before and after the clip, so that shifted audio never runs out

# vowel: formants in Hz (adult means, Peterson & Barney 1952)
_VOWELS = {
    "a": (730.0, 1090.0, 2440.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (270.0, 2290.0, 3010.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
}
Lips = Mapping[str, tuple[float, float]]
"""By vowel: mouth opening 0..1, and lip width relative to rest."""
LIPS: Lips = {"a": (1.0, 0.0), "e": (0.6, 0.05), "i": (0.35, 0.10), "o": (0.7, -0.22), "u": (0.35, -0.30)}
OTHER_LIPS: Lips = {vowel: LIPS[as_other] for vowel, as_other in zip("aeiou", "iaoue", strict=True)}
"""What another language could be to a model: the same sounds, with other lips."""
_NASAL_FORMANTS = (280.0, 1200.0, 2300.0)
_FORMANT_WIDTHS_HZ = (70.0, 100.0, 140.0, 175.0, 250.0)
_UPPER_FORMANTS_HZ = (3500.0, 4500.0)

# The photograph: the area shown (left, top, side) and the places of the face, in its own pixels.
_SHOWN = (96.0, 8.0, 256.0)
_MOUTH_X, _MOUTH_HALF_WIDTH = 225.0, 21.0
_UPPER_LIP_Y, _TEETH_PX = 141.0, 8.0  # lower edge of the upper lip; height of the smile below it
_CHIN_Y, _NECK_Y = 177.0, 200.0
WIDEST_OPENING_PX = 15.0
_EYES = ((202.7, 101.5), (246.5, 103.5))
_WARPED = (158.0, 84.0, 134.0, 122.0)  # left, top, width, height: mouth and eyes move nothing outside
_CAVITY_RGB = (58, 20, 22)


@dataclass(frozen=True)
class Voice:
    """What makes one voice differ from another."""

    pitch_hz: float = 150.0
    formant_scale: float = 1.0
    """Above 1: a shorter vocal tract, all its resonances higher."""
    rate: float = 1.0
    """Syllables come this much faster."""


@dataclass(frozen=True)
class _Speech:
    """Audio and lips of one babble; both begin `_MARGIN_S` before the clip."""

    audio: np.ndarray  # float32 [N] at 16 kHz
    opening: np.ndarray  # float32 [M] at _CONTROL_HZ, 0 closed .. 1 wide open
    width: np.ndarray  # float32 [M], added to the relative width of the lips


def render(
    duration_s: float = 12.0, av_offset_frames: int = 0, seed: int = 0, size_px: int = 640
) -> tuple[np.ndarray, np.ndarray]:
    """The clip in memory: frames uint8 [T, size_px, size_px, 3] RGB at 25 fps, audio float32 [N] mono at 16 kHz.

    av_offset_frames: positive = the audio is early (SyncNet's sign).
    """
    frames, audio = perform(duration_s, av_offset_frames, seed, size_px)
    return np.stack(list(frames)), audio


def perform(
    duration_s: float,
    av_offset_frames: int,
    seed: int,
    size_px: int,
    voice: Voice | None = None,
    widest_opening_px: float = WIDEST_OPENING_PX,
    lips: Lips = LIPS,
) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """The same, with frames drawn one by one, of a speaker with that voice and mouth.

    widest_opening_px: in pixels of the photograph.
    """
    speech = _synthesise(duration_s, seed, voice or Voice(), lips)
    frames = _draw(speech, duration_s, seed, size_px, widest_opening_px)
    return frames, _cut_audio(speech, duration_s, av_offset_frames)


def babble(duration_s: float, seed: int = 0) -> np.ndarray:
    """The voice alone: float32 [N] mono at 16 kHz, peak about 0.5."""
    return _cut_audio(_synthesise(duration_s, seed, Voice(), LIPS), duration_s, 0)


def make_talking_photo(
    path: Path,
    duration_s: float = 12.0,
    av_offset_frames: int = 0,
    seed: int = 0,
    size_px: int = 640,
    channels: int = 1,
) -> Path:
    """Writes the clip as H.264 and 48 kHz AAC (mono or stereo), in bounded memory for any duration. Returns path."""
    write_clip(path, *perform(duration_s, av_offset_frames, seed, size_px), channels=channels)
    return path


def write_clip(path: Path, frames: Iterator[np.ndarray], audio: np.ndarray, fps: int = FPS, channels: int = 1) -> None:
    """frames: uint8 [H, W, 3] RGB, even sides; audio: float32 [N] mono at 16 kHz. One thread, so bytes repeat."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "veryfast", "threads": "1"})
        video.pix_fmt = "yuv420p"
        layout = {1: "mono", 2: "stereo"}[channels]
        aac = container.add_stream("aac", rate=48_000, layout=layout)
        aac.bit_rate = 96_000
        for index, frame in enumerate(frames):
            if index == 0:
                video.height, video.width = frame.shape[:2]
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))

        resampler = av.AudioResampler("fltp", layout, 48_000)
        for start in range(0, len(audio), SAMPLE_RATE_HZ):
            block = av.AudioFrame.from_ndarray(audio[None, start : start + SAMPLE_RATE_HZ], format="flt", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE_HZ, start
            for resampled in resampler.resample(block):
                container.mux(aac.encode(resampled))
        for resampled in resampler.resample(None):
            container.mux(aac.encode(resampled))
        container.mux(aac.encode(None))


def _cut_audio(speech: _Speech, duration_s: float, av_offset_frames: int) -> np.ndarray:
    # early audio: what is heard at t belongs to what is seen at t + offset
    start = round((_MARGIN_S + av_offset_frames / FPS) * SAMPLE_RATE_HZ)
    if not 0 <= start <= 2 * _MARGIN_S * SAMPLE_RATE_HZ:
        raise ValueError(f"offset of {av_offset_frames} frames is beyond {_MARGIN_S} s")
    return speech.audio[start : start + round(duration_s * SAMPLE_RATE_HZ)]


# --- audio ----------------------------------------------------------------------------------------


def _synthesise(duration_s: float, seed: int, by: Voice, lips: Lips) -> _Speech:
    rng = np.random.default_rng(seed)
    total_s = duration_s + 2 * _MARGIN_S
    num_controls = round(total_s * _CONTROL_HZ)
    formants = np.tile(np.array(_VOWELS["e"]), (num_controls, 1))
    voice, hiss, opening, width = np.zeros((4, num_controls))

    time_s = 0.1
    while time_s < total_s:
        for _ in range(rng.integers(4, 9)):  # a phrase of syllables: consonant, vowel
            consonant_s, vowel_s = rng.uniform(0.05, 0.09) / by.rate, rng.uniform(0.11, 0.20) / by.rate
            vowel = "aeiou"[rng.integers(5)]
            vowel_formants, (vowel_opening, vowel_width) = _VOWELS[vowel], lips[vowel]
            start, middle, end = (round(t * _CONTROL_HZ) for t in np.cumsum([time_s, consonant_s, vowel_s]))
            formants[start:end] = vowel_formants
            voice[middle:end], opening[middle:end], width[middle:end] = 1.0, vowel_opening, vowel_width
            match rng.integers(3):
                case 0:  # like s: the teeth stay a little apart
                    hiss[start:middle], opening[start:middle] = 1.0, 0.15
                case 1:  # like m: voiced through closed lips
                    voice[start:middle], formants[start:middle] = 0.35, _NASAL_FORMANTS
                # else like p: silent, closed
            time_s += consonant_s + vowel_s
        time_s += rng.uniform(0.25, 0.45) / by.rate

    formants = np.stack([_smooth(track, 0.05) for track in formants.T], axis=1)
    audio = _speak(formants * by.formant_scale, _smooth(voice, 0.05), _smooth(hiss, 0.05), by, rng)
    return _Speech(
        audio=audio, opening=_smooth(opening, 0.08).astype(np.float32), width=_smooth(width, 0.10).astype(np.float32)
    )


def _smooth(track: np.ndarray, window_s: float) -> np.ndarray:
    window = np.hanning(round(window_s * _CONTROL_HZ) | 1)
    return np.convolve(track, window / window.sum(), "same")


def _speak(
    formants: np.ndarray, voice: np.ndarray, hiss: np.ndarray, by: Voice, rng: np.random.Generator
) -> np.ndarray:
    """Pulses of a gliding pitch through five resonators in a row (Klatt 1980), and hiss. float32, peak 0.5."""
    num_samples = len(voice) * SAMPLE_RATE_HZ // _CONTROL_HZ
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    control_s = np.arange(len(voice)) / _CONTROL_HZ
    pitch_hz = by.pitch_hz * (1 + 0.12 * np.sin(2 * np.pi * 0.45 * time_s) + 0.05 * np.sin(2 * np.pi * 2.1 * time_s))
    upper_hz = [by.formant_scale * centre_hz for centre_hz in _UPPER_FORMANTS_HZ]
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / SAMPLE_RATE_HZ), prepend=0.0)
    source = lfilter([1.0], [1.0, -0.97], pulses) + 0.02 * rng.normal(size=num_samples)
    source *= np.interp(time_s, control_s, voice)

    voiced = np.empty(num_samples)
    states = [np.zeros(2) for _ in _FORMANT_WIDTHS_HZ]
    block = SAMPLE_RATE_HZ // _CONTROL_HZ
    for index, low in enumerate(formants):
        piece = source[index * block : (index + 1) * block]
        for number, (centre_hz, width_hz) in enumerate(zip((*low, *upper_hz), _FORMANT_WIDTHS_HZ, strict=True)):
            radius = np.exp(-np.pi * width_hz / SAMPLE_RATE_HZ)
            poles = [1.0, -2 * radius * np.cos(2 * np.pi * centre_hz / SAMPLE_RATE_HZ), radius**2]
            piece, states[number] = lfilter([sum(poles)], poles, piece, zi=states[number])
        voiced[index * block : (index + 1) * block] = piece

    breath = lfilter([1.0, -0.9], [1.0], rng.normal(size=num_samples)) * np.interp(time_s, control_s, hiss)
    audio = voiced / np.abs(voiced).max() + 0.06 * breath
    return (0.5 * audio / np.abs(audio).max()).astype(np.float32)


# --- frames --------------------------------------------------------------------------------------


def _draw(
    speech: _Speech, duration_s: float, seed: int, size_px: int, widest_opening_px: float
) -> Iterator[np.ndarray]:
    """Frames uint8 [size_px, size_px, 3] RGB; each shows the lips at its own timestamp."""
    photograph = skimage.data.astronaut()
    scale = size_px / _SHOWN[2]
    left, top = (int((_WARPED[i] - _SHOWN[i]) * scale) for i in (0, 1))
    right, bottom = left + int(_WARPED[2] * scale), top + int(_WARPED[3] * scale)
    columns, rows = np.meshgrid(np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32))
    whole, how, beyond = (size_px, size_px), cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, cv2.BORDER_REFLECT_101
    blinks_s = _draw_blinks(duration_s, seed)
    cavity_colour = np.array(_CAVITY_RGB, np.float32)

    for index in range(round(duration_s * FPS)):
        time_s = index / FPS
        control = min(round((_MARGIN_S + time_s + _LIP_LEAD_S) * _CONTROL_HZ), len(speech.opening) - 1)
        pose = _move_head(time_s, scale)
        frame = cv2.warpAffine(photograph, pose, whole, flags=how, borderMode=beyond)

        x = pose[0, 0] * columns + pose[0, 1] * rows + pose[0, 2]
        y = pose[1, 0] * columns + pose[1, 1] * rows + pose[1, 2]
        x, y, cavity = _open_mouth(x, y, speech.opening[control], speech.width[control], widest_opening_px)
        y = _close_eyes(x, y, np.exp(-(((time_s - blinks_s) / 0.06) ** 2)).max(initial=0.0).astype(np.float32))
        face = cv2.remap(photograph, x, y, cv2.INTER_CUBIC, borderMode=beyond)
        frame[top:bottom, left:right] = (face + (cavity_colour - face) * cavity).round()
        yield frame


def _draw_blinks(duration_s: float, seed: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng([seed, 1]).uniform(2.0, 4.5, size=int(duration_s / 2) + 1))


def _move_head(time_s: float, scale: float) -> np.ndarray:
    """Nods and sways about the neck by a few pixels, slower than speech: [2, 3] from frame to photograph."""
    angle = 0.018 * np.sin(2 * np.pi * 0.23 * time_s)
    right = 1.5 * np.sin(2 * np.pi * 0.31 * time_s + 1)
    down = 1.2 * np.sin(2 * np.pi * 0.41 * time_s + 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    neck = np.array([_MOUTH_X, _NECK_Y])
    half_pixel = 0.5 / scale - 0.5
    corner = np.array(_SHOWN[:2]) + half_pixel - neck
    return np.column_stack([turn / scale, turn @ corner + neck - (right, down)]).astype(np.float32)


def _open_mouth(
    x: np.ndarray, y: np.ndarray, opening: np.float32, width: np.float32, widest_opening_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source point in the photograph of each pixel, and how much of it [H, W, 1] is the dark of the mouth.

    The upper lip and teeth stay; the lower lip and chin move down with the jaw, or up to close the smile.
    """
    near_mouth = np.exp(-(((x - _MOUTH_X) / 32) ** 2) - ((y - _UPPER_LIP_Y - 4) / 16) ** 2)
    x = _MOUTH_X + (x - _MOUTH_X) / (1 + width * near_mouth)

    across = np.clip(1 - ((x - _MOUTH_X) / _MOUTH_HALF_WIDTH) ** 2, 0, 1)  # 1 in the middle, 0 at the corners
    opening_px = 0.8 + (widest_opening_px - 0.8) * opening
    lip_shift = (opening_px - _TEETH_PX) * across
    chin_shift = 0.6 * (opening_px - _TEETH_PX) * np.exp(-(((x - _MOUTH_X) / 34) ** 2))

    lip_y = _UPPER_LIP_Y + opening_px * across  # upper edge of the lower lip
    to_chin = _ease((y - lip_y) / 22)
    fade = 1 - _ease((y - _CHIN_Y + 6) / (_NECK_Y - _CHIN_Y + 6))
    below = y >= lip_y
    found_y = np.where(below, y - (lip_shift * (1 - to_chin) + chin_shift * to_chin) * fade, y)
    found_y = np.where(below | (y <= _UPPER_LIP_Y), found_y, np.minimum(y, _UPPER_LIP_Y + _TEETH_PX * across))

    under_teeth = _ease((y - _UPPER_LIP_Y - _TEETH_PX * 0.8 * across) / 1.5)
    cavity = under_teeth * _ease((lip_y - y) / 1.2) * (across > 0)
    return x, found_y, cavity[..., None]


def _close_eyes(x: np.ndarray, y: np.ndarray, closed: np.float32) -> np.ndarray:
    """Pulls the skin of the upper lid over the eye. closed: 0 open .. 1 shut."""
    for eye_x, eye_y in _EYES:
        weight = np.exp(-(((x - eye_x) / 9) ** 4) - ((y - eye_y) / 6) ** 4)
        y = y - 7 * closed * weight
    return y


def _ease(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--duration-s", type=float, default=12.0)
    parser.add_argument("--offset", type=int, default=0, help="frames by which the audio is early")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size-px", type=int, default=640)
    parser.add_argument("--stereo", action="store_true")
    arguments = parser.parse_args()
    path = make_talking_photo(
        arguments.out,
        arguments.duration_s,
        arguments.offset,
        arguments.seed,
        arguments.size_px,
        channels=2 if arguments.stereo else 1,
    )
    print(path)


if __name__ == "__main__":
    main()
