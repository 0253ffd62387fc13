"""Choose the channels that keep the voice when a source's audio becomes mono.

The mean of all channels is the usual downmix, but a voice loses level in it when it is on few of the channels, and is
cancelled or comb-filtered when the channels have it in opposite phase or at different times. So the mean is compared
with the channels, in the octaves of speech, over the whole unit.
"""

from dataclasses import dataclass

import numpy as np

BLOCK_S = 0.05
"""About the length of a block of audio whose level is measured."""
BLOCKS_APART = 4
"""A block in so many is measured, which is enough and costs little."""
OCTAVES_HZ = (250, 500, 1000, 2000, 4000, 8000)
"""Edges of the bands. Hum and the low-frequency channel lie below."""
MAX_LOSS_DB = 1.0
"""The mean is used while it loses at most this of the voice ..."""
MAX_OCTAVE_LOSS_DB = 3.5
"""... and at most this in every octave. Two channels with nothing in common (a hall, wide music) lose 3 dB, a voice
that comes 0.4 ms later in one of them 7 dB in one octave."""
SHARE_OF_OCTAVE_DB = -30.0
"""Octaves with less of the voice than this do not matter."""
ACTIVE_DB = -20.0
"""Blocks below this, relative to the loud ones, are pauses."""
MIN_ACTIVE = 3
"""With fewer active blocks there is nothing to choose by."""
LEADS_DB = 3.0
"""A channel is missed where it is this much louder than the chosen ones ..."""
MAX_MISSED = 0.05
"""... in more than this share of the active blocks."""
SAME_VOICE = 0.7
"""... unless its level follows that of a chosen channel: one voice, 20 ms later, correlates by 0.8, two people talking
in turn by less than 0."""
CENTRE_DB = -20.0
"""A centre channel with at least this much of the voice is the dialogue channel."""
_FLOOR_QUANTILE, _FLOOR_FACTOR = 0.1, 1.5
"""What is as loud in pauses is noise: a channel's level counts above 1.5 times that of its quietest tenth of blocks."""
MIN_VOICE = 0.1
"""A channel with a smaller share of its power above its noise is a channel of noise."""
_SILENCE = 1e-10
"""Power of digital silence, dither included. Such blocks say nothing of the noise."""
_MOST_VALUES = 1 << 19
"""Samples, of all channels, that are analysed at once: 2 MB."""


@dataclass(frozen=True)
class Downmix:
    """How the channels become one."""

    channels: tuple[int, ...] | None
    """From 0; several are added. None: the mean of all."""
    gain: float = 1.0
    """Of a sum."""

    @property
    def adds_up(self) -> bool:
        return self.channels is not None and len(self.channels) > 1

    def words(self, num_channels: int) -> str:
        """The value of `audio_downmix`: mono, mix, channel 1, channels 1 + 2."""
        if num_channels == 1:
            return "mono"
        if self.channels is None:
            return "mix"
        return f"channel{'s' if self.adds_up else ''} {' + '.join(str(c + 1) for c in self.channels)}"


MEAN = Downmix(None)


class ChannelLevels:
    """Power of each channel and of their mean, by octave, in blocks of about 50 ms: one in every 0.2 s."""

    def __init__(self, num_channels: int, sample_rate_hz: int, centre: int | None) -> None:
        """centre: the channel that a known layout calls front centre."""
        self.centre = centre
        self.block = 2 ** max(4, int(np.log2(sample_rate_hz * BLOCK_S) + 0.5))
        self._window = np.hanning(self.block + 1)[:-1].astype(np.float32) * np.float32(2 / self.block)
        octaves = np.digitize(np.arange(self.block // 2 + 1) * sample_rate_hz / self.block, OCTAVES_HZ) - 1
        self._octaves = (octaves[:, None] == np.arange(len(OCTAVES_HZ) - 1)).astype(np.float32)
        """[bins, 5]: 1 where a bin belongs to an octave."""
        self._most_blocks = max(1, _MOST_VALUES // (self.block * num_channels))
        self._num_samples = self._next_block = 0
        self._begun: list[np.ndarray] = []
        """Pieces of a block that is not complete."""
        self._blocks: list[np.ndarray] = []
        self._power: list[np.ndarray] = []

    def wants(self, num_samples: int) -> bool:
        """Whether the next frame, of num_samples, is to be added. To be asked about every frame."""
        wanted = bool(self._begun) or self._num_samples >= self._next_block
        if wanted and not self._begun:
            self._next_block = self._num_samples + BLOCKS_APART * self.block
        self._num_samples += num_samples
        return wanted

    def add(self, channels: np.ndarray) -> None:
        """channels: float32 [C, N], full scale 1; any N."""
        self._begun.append(channels)
        if sum(piece.shape[1] for piece in self._begun) < self.block:
            return
        self._blocks.append(np.concatenate(self._begun, axis=1)[:, : self.block])
        self._begun = []
        if len(self._blocks) == self._most_blocks:
            self._analyse()

    def power(self) -> np.ndarray:
        """float32 [B, C + 1, 5]: per block, channel (the last is their mean) and octave."""
        self._analyse()
        return np.concatenate(self._power) if self._power else np.zeros((0, 1, len(OCTAVES_HZ) - 1), np.float32)

    def _analyse(self) -> None:
        if self._blocks:
            blocks = np.stack(self._blocks) * self._window
            blocks = np.concatenate([blocks, blocks.mean(axis=1, keepdims=True)], axis=1)
            power = np.square(np.abs(np.fft.rfft(blocks, axis=2)))
            # Not as a matrix product, whose last digits may depend on the number of threads.
            self._power.append(np.einsum("bcf,fk->bck", power, self._octaves))
            self._blocks = []


def choose(power: np.ndarray, centre: int | None) -> Downmix:
    """The downmix that keeps the voice.

    power: float [B, C + 1, K] as `ChannelLevels.power`. centre: the channel that a known layout calls front centre.
    The centre, if it has a voice. Else the mean of all, if it keeps the voice in every octave. Else the channel with
    most of the voice; and, where others lead for some time (one person on each channel), those are added.
    """
    voice = _above_noise(power)
    channels, mean = voice[:, :-1], voice[:, -1]
    channels = channels * (channels.sum(axis=(0, 2)) >= MIN_VOICE * power[:, :-1].sum(axis=(0, 2)))[:, None]
    level = channels.sum(axis=2)
    loudest = level.max(axis=1, initial=0.0)
    if not loudest.any():
        return MEAN
    active = loudest >= _ratio(ACTIVE_DB) * (loudest**2).sum() / loudest.sum()
    if active.sum() < MIN_ACTIVE:
        return MEAN
    if centre is not None and level[:, centre].sum() >= _ratio(CENTRE_DB) * loudest.sum():
        return Downmix((centre,))
    wanted = channels[active].max(axis=1).sum(axis=0)
    matters = wanted >= _ratio(SHARE_OF_OCTAVE_DB) * wanted.sum()
    kept = mean[active].sum(axis=0)
    keeps_octaves = (kept >= _ratio(-MAX_OCTAVE_LOSS_DB) * wanted)[matters].all()
    if keeps_octaves and kept.sum() >= _ratio(-MAX_LOSS_DB) * wanted.sum():
        return MEAN
    chosen = _leaders(level[active])
    if 1 < len(chosen) == channels.shape[1]:
        # What the channels have in common adds up: as loud as before.
        return Downmix(chosen, min(1.0, float(np.sqrt(wanted.sum() / kept.sum())) / len(chosen)))
    return Downmix(chosen)


def _above_noise(power: np.ndarray) -> np.ndarray:
    """Power above the noise of each channel and octave."""
    heard = np.where(power > _SILENCE, power, np.nan)
    floor = np.zeros(power.shape[1:])
    some = ~np.isnan(heard).all(axis=0)
    floor[some] = np.nanquantile(heard[:, some], _FLOOR_QUANTILE, axis=0)
    return np.maximum(power - _FLOOR_FACTOR * floor, 0)


def _leaders(level: np.ndarray) -> tuple[int, ...]:
    """The fewest channels of which one is loud in nearly every block. level: [B, C]."""
    total = level.sum(axis=0)
    chosen = [int((total >= _ratio(-0.5) * total.max()).argmax())]  # the first of equal ones
    loudest = level.max(axis=1)
    while True:
        missed = loudest > _ratio(LEADS_DB) * level[:, chosen].max(axis=1)
        missed &= ~_same_voice(level, chosen)[level.argmax(axis=1)]
        if missed.mean() <= MAX_MISSED:
            return tuple(sorted(chosen))
        chosen.append(int(np.bincount(level[missed].argmax(axis=1)).argmax()))


def _same_voice(level: np.ndarray, chosen: list[int]) -> np.ndarray:
    """bool [C]: channels that are loud when a chosen one is: its voice, earlier or later. Added, it would echo."""
    loudness = np.sqrt(level) - np.sqrt(level).mean(axis=0)
    size = np.maximum(np.linalg.norm(loudness, axis=0), 1e-12)
    correlation = (loudness.T @ loudness[:, chosen]) / (size[:, None] * size[chosen])
    return correlation.max(axis=1) > SAME_VOICE


def _ratio(decibel: float) -> float:
    return 10 ** (decibel / 10)
