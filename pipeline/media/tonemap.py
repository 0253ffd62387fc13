"""Show HDR and wide-gamut pictures as SDR: a 3-D table from the standards' formulas, applied by FFmpeg's lut3d.

Light is in nits throughout, as it leaves a display. White of SDR is at 203 nits (ITU-R BT.2408), so a face keeps the
brightness it has in an SDR recording, and brighter light is rolled off (the EETF of ITU-R BT.2390).
"""

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np

from lipforge.pipeline.media.side_data import side_data

WHITE_NITS = 203.0
"""Light of SDR's white in HDR (BT.2408)."""
HLG_PEAK_NITS = 1000.0
"""Nominal display of HLG; with it, 75 % of the signal is WHITE_NITS."""
DEFAULT_PEAK_NITS = 1000.0
"""Brightest light of a PQ source that does not say."""
PQ_PEAK_NITS = 10_000.0
_ROLL_POINTS = 4096
"""Of the table that undoes the roll-off."""
TABLE_POINTS = 33
"""Along each colour. PQ and HLG are spaced as the eye sees, so few are enough."""

_DEEP = av.VideoFormat("gbrp16le")
_BT2020, _UNSPECIFIED = 9, 2  # ITU-T H.273, of primaries
_TRANSFERS = {16: "pq", 18: "hlg"}
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593])
_BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
)
_SDR_GAMMA = 2.4  # BT.1886
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128  # SMPTE ST 2084
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073  # ARIB STD-B67


@dataclass(frozen=True)
class Light:
    """How the values of a picture mean light."""

    transfer: str
    """sdr, pq or hlg"""
    wide_gamut: bool
    """The primaries are those of BT.2020."""
    peak_nits: float
    """Brightest light, where the transfer is pq."""

    @property
    def is_plain(self) -> bool:
        return self.transfer == "sdr" and not self.wide_gamut


def transfer_of(frame: av.VideoFrame) -> str:
    """sdr, pq or hlg."""
    return _TRANSFERS.get(int(frame.color_trc), "sdr")


def light_of(frame: av.VideoFrame, peak_nits: float) -> Light:
    transfer, primaries = transfer_of(frame), int(frame.color_primaries)
    untagged_hdr = transfer != "sdr" and primaries == _UNSPECIFIED
    return Light(transfer, primaries == _BT2020 or untagged_hdr, peak_nits)


def peak_of(frame: av.VideoFrame) -> float:
    """The brightest light that a frame's metadata promise, in nits; at least WHITE_NITS."""
    found = []
    level = side_data(frame, "CONTENT_LIGHT_LEVEL")
    if level is not None:  # AVContentLightMetadata: MaxCLL, MaxFALL
        found.append(float(np.frombuffer(bytes(level), np.uint32, 1)[0]))
    mastering = side_data(frame, "MASTERING_DISPLAY_METADATA")
    if mastering is not None:  # AVMasteringDisplayMetadata: 18 numbers, the highest luminance, two flags
        numbers = np.frombuffer(bytes(mastering), np.int32, 22)
        if numbers[21] and numbers[19]:
            found.append(float(numbers[18] / numbers[19]))
    brightest = min((nits for nits in found if nits > 0), default=DEFAULT_PEAK_NITS)
    return float(np.clip(brightest, WHITE_NITS, PQ_PEAK_NITS))


def to_sdr(rgb: np.ndarray, light: Light) -> np.ndarray:
    """Colours as SDR shows them: BT.709 primaries, BT.1886. rgb: float [..., 3] in 0..1, as coded; so is the result."""
    if light.transfer == "pq":
        nits = roll_off(pq_to_nits(rgb), light.peak_nits)
    elif light.transfer == "hlg":
        nits = roll_off(hlg_to_nits(rgb), HLG_PEAK_NITS)
    else:
        nits = WHITE_NITS * rgb**_SDR_GAMMA
    if light.wide_gamut:
        nits = nits @ _BT2020_TO_BT709.T
    return np.clip(nits / WHITE_NITS, 0, 1) ** (1 / _SDR_GAMMA)


def from_sdr(rgb: np.ndarray, light: Light) -> np.ndarray:
    """Undoes `to_sdr`: SDR colours as a picture of this light has them. rgb: float [..., 3] in 0..1; so is the result.

    Light that `to_sdr` cut off is lost: white stays the white of SDR, rolled back to the brightest light.
    """
    nits = WHITE_NITS * np.asarray(rgb, np.float64) ** _SDR_GAMMA
    if light.wide_gamut:
        nits = np.maximum(nits @ np.linalg.inv(_BT2020_TO_BT709).T, 0)
    if light.transfer == "sdr":
        return np.clip(nits / WHITE_NITS, 0, 1) ** (1 / _SDR_GAMMA)
    peak_nits = light.peak_nits if light.transfer == "pq" else HLG_PEAK_NITS
    bright = pq_to_nits(np.linspace(0, nits_to_pq(peak_nits), _ROLL_POINTS))
    nits = np.interp(nits, roll_off(bright, peak_nits), bright)
    return np.clip(nits_to_pq(nits) if light.transfer == "pq" else _nits_to_hlg(nits), 0, 1)


def _nits_to_hlg(nits: np.ndarray) -> np.ndarray:
    """Undoes `hlg_to_nits`."""
    luma = np.maximum((nits @ _BT2020_LUMA)[..., None] / HLG_PEAK_NITS, 1e-9) ** (1 / 1.2)
    scene = nits / (HLG_PEAK_NITS * luma**0.2)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), _A * np.log(np.maximum(12 * scene - _B, 1e-9)) + _C)


def pq_to_nits(signal: np.ndarray) -> np.ndarray:
    power = signal ** (1 / _M2)
    return PQ_PEAK_NITS * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def nits_to_pq(nits: np.ndarray | float) -> np.ndarray:
    power = (np.maximum(nits, 0) / PQ_PEAK_NITS) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def hlg_to_nits(signal: np.ndarray) -> np.ndarray:
    """signal: float [..., 3] in 0..1. On a display of HLG_PEAK_NITS, whose system gamma is 1.2 (BT.2100)."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _C) / _A) + _B) / 12)
    luma = (scene @ _BT2020_LUMA)[..., None]
    return HLG_PEAK_NITS * scene * np.maximum(luma, 1e-9) ** 0.2


def roll_off(nits: np.ndarray, peak_nits: float) -> np.ndarray:
    """Compress light of up to peak_nits to WHITE_NITS; light well below is not changed (BT.2390, section 5.4.1)."""
    if peak_nits <= WHITE_NITS:
        return nits
    source = nits_to_pq(peak_nits)
    white = nits_to_pq(WHITE_NITS) / source
    knee = 1.5 * white - 0.5
    signal = np.minimum(nits_to_pq(nits) / source, 1)
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * white
    return np.where(signal < knee, nits, pq_to_nits(spline * source))


class ToSdr:
    """Applies `to_sdr` to pictures of one size."""

    def __init__(self, light: Light, width_px: int, height_px: int) -> None:
        steps = np.linspace(0, 1, TABLE_POINTS)
        blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")  # red changes fastest in a .cube file
        table = to_sdr(np.stack([red, green, blue], axis=-1).reshape(-1, 3), light)
        self.graph = av.filter.Graph()
        self.graph.threads = 1
        source = self.graph.add_buffer(width=width_px, height=height_px, format=_DEEP, time_base=Fraction(1))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "to_sdr.cube"
            rows = "\n".join(f"{red:.6f} {green:.6f} {blue:.6f}" for red, green, blue in table.tolist())
            path.write_text(f"LUT_3D_SIZE {TABLE_POINTS}\n{rows}\n")
            lut = self.graph.add("lut3d", file=str(path), interp="tetrahedral")
        self.graph.link_nodes(source, lut, self.graph.add("buffersink")).configure()

    def apply(self, picture: av.VideoFrame) -> av.VideoFrame:
        """picture: gbrp16le, of the size given."""
        self.graph.push(picture)
        return self.graph.vpull()
