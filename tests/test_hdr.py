"""HDR is shown as SDR: near the SDR clip that it was made from, and by the standards' own numbers."""

from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data

from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.probe import probe
from lipforge.pipeline.media.tonemap import (
    DEFAULT_PEAK_NITS,
    WHITE_NITS,
    Light,
    ToSdr,
    hlg_to_nits,
    nits_to_pq,
    pq_to_nits,
    roll_off,
    to_sdr,
)
from tests.odd_pictures import as_hdr, convert, frames_of, scaled, write_pictures

X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "8", "-x265-params", "log-level=none:pools=1")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-crf", "8", "-b:v", "0", "-threads", "1")
FFV1 = ("-c:v", "ffv1")


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face, a red suit, a white wall: 2 frames, lossless, BT.709."""
    picture = scaled(skimage.data.astronaut(), 224, 224)
    path = tmp_path_factory.mktemp("plain") / "rgb.mkv"
    write_pictures(path, [np.roll(picture, 4 * n, axis=1) for n in range(2)], vcodec="ffv1", pix_fmt="bgr0")
    tags = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv")
    matrix = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd,format=yuv444p"
    return convert(path, path.with_name("plain.mkv"), "-vf", matrix, *FFV1, *tags)


def images_of(path: Path) -> np.ndarray:
    return np.stack([frame.picture.whole() for frame in frames_of(path)])


KINDS = {
    "pq_hevc.mp4": ("smpte2084", X265, "yuv420p10le", False),
    "hlg_hevc.mp4": ("arib-std-b67", X265, "yuv420p10le", False),
    "pq_full_range.mkv": ("smpte2084", FFV1, "yuv420p10le", True),
    "pq_12_bit.mkv": ("smpte2084", FFV1, "yuv422p12le", False),
    "hlg_12_bit.mkv": ("arib-std-b67", FFV1, "yuv444p12le", False),
    "hlg_full_range.mkv": ("arib-std-b67", FFV1, "yuv420p10le", True),
    "pq_vp9.webm": ("smpte2084", VP9, "yuv420p10le", False),
    "hlg_vp9.mp4": ("arib-std-b67", VP9, "yuv420p10le", False),
}


@pytest.mark.parametrize("name", KINDS)
def test_hdr_looks_like_the_sdr_clip_that_it_was_made_from(plain: Path, tmp_path: Path, name: str) -> None:
    transfer, encoder, pix_fmt, full_range = KINDS[name]
    path = as_hdr(plain, tmp_path / name, transfer, *encoder, pix_fmt=pix_fmt, full_range=full_range)
    assert probe(str(path)).transfer == {"smpte2084": "pq", "arib-std-b67": "hlg"}[transfer]
    got, wanted = images_of(path), images_of(plain)
    untouched = np.stack([frame.to_ndarray(format="rgb24") for frame in av.open(str(path)).decode(video=0)])
    assert psnr_db(got, wanted) > 28
    assert psnr_db(untouched, wanted) < 24
    skin = np.s_[:, 28:63, 88:108]
    assert np.abs(got[skin].mean(axis=(0, 1, 2)) - wanted[skin].mean(axis=(0, 1, 2))).max() < 10


def test_a_source_that_says_how_bright_it_gets_is_rolled_off_less(plain: Path, tmp_path: Path) -> None:
    """Content of 203 nits needs no roll-off at all."""
    light = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=203,100"
    encoder = (*X265[:-1], f"{X265[-1]}:{light}")
    told = as_hdr(plain, tmp_path / "told.mp4", "smpte2084", *encoder, pix_fmt="yuv420p10le")
    untold = as_hdr(plain, tmp_path / "untold.mp4", "smpte2084", *X265, pix_fmt="yuv420p10le")
    assert (probe(str(told)).peak_nits, probe(str(untold)).peak_nits) == (203, DEFAULT_PEAK_NITS)
    wanted = images_of(plain)
    assert psnr_db(images_of(told), wanted) > psnr_db(images_of(untold), wanted) + 0.5


def test_the_mastering_display_bounds_the_light(plain: Path, tmp_path: Path) -> None:
    light = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(40000000,50)"
    encoder = (*X265[:-1], f"{X265[-1]}:{light}")
    path = as_hdr(plain, tmp_path / "a.mp4", "smpte2084", *encoder, pix_fmt="yuv420p10le")
    assert probe(str(path)).peak_nits == 4000


def test_wide_gamut_sdr_keeps_its_colours(plain: Path, tmp_path: Path) -> None:
    """BT.2020 primaries without HDR: read as BT.709, a red suit turns pale."""
    wide = (
        "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709,"
        "zscale=p=bt2020:t=bt709:m=2020_ncl:r=tv,format=yuv444p10le"
    )
    tags = ("-color_primaries", "bt2020", "-color_trc", "bt709", "-colorspace", "bt2020nc", "-color_range", "tv")
    path = convert(plain, tmp_path / "wide.mkv", "-vf", wide, *FFV1, *tags)
    assert probe(str(path)).transfer == "sdr"
    assert psnr_db(images_of(path), images_of(plain)) > 36


def test_plain_video_is_sdr_and_its_values_are_the_decoders(plain: Path) -> None:
    assert probe(str(plain)).transfer == "sdr"
    with av.open(str(plain)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(images_of(plain), np.stack(decoded))


def test_dolby_vision_that_only_its_own_players_show_is_refused(plain: Path, tmp_path: Path) -> None:
    """Profile 5: a tag of its own, and no transfer that others know. Tagged as HLG, it is for all players."""
    ten_bit = ("-vf", "format=yuv420p10le", *X265, "-tag:v", "dvh1", "-strict", "-2")
    with pytest.raises(MediaError, match="Dolby Vision") as error:
        probe(str(convert(unmarked(plain, tmp_path), tmp_path / "five.mp4", *ten_bit)))
    assert error.value.reason == "decode_error"
    hlg = as_hdr(plain, tmp_path / "eight.mp4", "arib-std-b67", *ten_bit[2:], pix_fmt="yuv420p10le")
    assert probe(str(hlg)).transfer == "hlg"


def unmarked(plain: Path, folder: Path) -> Path:
    """The same pictures without a word about their colours."""
    return convert(plain, folder / "unmarked.mkv", "-vf", "setparams=color_trc=unknown", *FFV1)


# --- the formulas ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("signal", "nits"), [(0, 0), (0.5081, 100), (0.5807, 203), (0.7518, 1000), (1, 10_000)])
def test_pq_means_the_light_that_the_standard_says(signal: float, nits: float) -> None:
    """Values of ITU-R BT.2408, table 1, and SMPTE ST 2084."""
    assert float(pq_to_nits(np.array(signal))) == pytest.approx(nits, rel=2e-3, abs=1e-3)
    assert float(nits_to_pq(nits)) == pytest.approx(signal, abs=1e-4)


@pytest.mark.parametrize(("signal", "nits"), [(0, 0), (0.38, 26), (0.75, 203), (1, 1000)])
def test_hlg_means_the_light_that_the_standard_says(signal: float, nits: float) -> None:
    """Values of ITU-R BT.2408, table 1: grey card 26 nits at 38 %, white 203 nits at 75 %."""
    assert hlg_to_nits(np.full((1, 3), signal)) == pytest.approx(nits, rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("peak", [300.0, 1000.0, 4000.0, 10_000.0])
def test_roll_off_keeps_faces_and_brings_the_peak_to_white(peak: float) -> None:
    nits = np.geomspace(0.01, peak, 500)
    got = roll_off(nits, peak)
    assert (np.diff(got) > 0).all()
    assert got[-1] == pytest.approx(WHITE_NITS, rel=1e-3)
    low = nits < (85 if peak <= 1000 else 10)
    np.testing.assert_allclose(got[low], nits[low])
    assert (got <= nits * (1 + 1e-6)).all()
    assert np.abs(np.diff(got, n=2)).max() < 3  # no kink


def test_neutral_colours_stay_neutral_and_white_is_white() -> None:
    for light in (Light("pq", True, 1000), Light("hlg", True, 1000), Light("sdr", True, 1000)):
        greys = np.repeat(np.linspace(0, 1, 20)[:, None], 3, axis=1)
        got = to_sdr(greys, light)
        assert np.ptp(got, axis=1).max() < 2e-3
        assert got.min() >= 0 and got[-1] == pytest.approx(1)
    assert to_sdr(np.full((1, 3), nits_to_pq(WHITE_NITS)), Light("pq", True, WHITE_NITS)) == pytest.approx(1)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_the_table_is_as_good_as_the_formulas(transfer: str) -> None:
    rng = np.random.default_rng(0)
    light = Light(transfer, True, 1000)
    rgb = rng.uniform(0.1, 0.75, (32, 32, 1)) + rng.uniform(-0.05, 0.05, (32, 32, 3))  # skin, not lasers
    deep = (rgb * 65535).astype(np.uint16)
    picture = av.VideoFrame.from_ndarray(deep, format="rgb48le").reformat(format="gbrp16le")
    got = ToSdr(light, 32, 32).apply(picture).reformat(format="rgb48le").to_ndarray() / 65535
    error = np.abs(got - to_sdr(deep / 65535, light))
    assert error.mean() < 0.002 and np.percentile(error, 99) < 0.02
