"""KEY.npz says where each frame of a clip lies in its source, in few bytes; what is none is refused."""

import contextlib
import io
import re
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from lipforge import read_manifest, read_sample
from lipforge.datasets_manifest.geometry import ClipGeometry, GeometryError, decode_geometry, encode_geometry
from lipforge.datasets_manifest.sample import END_OF_TAR, Sample, clip_members, sample_bytes
from lipforge.model.faces.face import FaceBackend
from lipforge.model.faces.insight import InsightFaces
from lipforge.model.faces.mediapipe import MediaPipeFaces
from lipforge.model.faces.picture import Picture
from lipforge.pipeline.clip import Clip, Frame
from lipforge.pipeline.config import AlignConfig, CutConfig, FacesConfig, PrepareConfig
from lipforge.pipeline.media.clips import decode_mp4
from lipforge.pipeline.stages.align import AlignFace
from lipforge.pipeline.stages.cut import CutRuns
from lipforge.pipeline.stages.faces import TrackFaces
from tests.conftest import LOCAL, run_prepare
from tests.scripted_faces import LEFT_BOX, FakeFaces, cut, everywhere, make_unit
from tests.talking_photo import _MOUTH_X, _UPPER_LIP_Y, WIDEST_OPENING_PX, _move_head, make_talking_photo, render

SIDE_PX = 384
SHORT = {"min_run_s": 1.0, "max_clip_s": 2.0}
POINTS = ("face_box", "alignment_points", "mouth_outer", "mouth_inner", "face_outline")


def made_geometry(num_frames: int = 30) -> ClipGeometry:
    rng = np.random.default_rng(0)

    def points(count: int) -> np.ndarray:
        places = rng.uniform(-20, 1900, (1, count, 2)) + rng.normal(size=(num_frames, count, 2)).cumsum(axis=0)
        return places.astype(np.float32)

    box = np.array([[500, 300], [640, 480]], np.float32) + rng.normal(size=(num_frames, 2, 2)).astype(np.float32)
    return ClipGeometry(
        crop_px=256,
        to_crop=rng.normal(size=(num_frames, 2, 3)).astype(np.float32),
        frame_size_px=np.full((num_frames, 2), (1920, 1080), np.int32),
        found=np.arange(num_frames) != 7,
        outside_ratio=np.linspace(0, 0.3, num_frames, dtype=np.float32),
        yaw_deg=np.linspace(-90, 90, num_frames, dtype=np.float32),
        pitch_deg=np.linspace(20, -20, num_frames, dtype=np.float32),
        roll_deg=np.linspace(-179.9, 179.9, num_frames, dtype=np.float32),
        face_box=box,
        alignment_points=points(3),
        mouth_outer=points(20),
        mouth_inner=points(20),
        face_outline=points(36),
    )


def test_geometry_is_read_as_it_was_written_and_its_bytes_repeat() -> None:
    made = made_geometry()
    data = encode_geometry(made)
    assert encode_geometry(made) == data
    read = decode_geometry(data, 30)
    np.testing.assert_array_equal(read.to_crop, made.to_crop)
    np.testing.assert_array_equal(read.frame_size_px, made.frame_size_px)
    np.testing.assert_array_equal(read.found, made.found)
    np.testing.assert_allclose(read.outside_ratio, made.outside_ratio, atol=2e-4)
    for name in ("yaw_deg", "pitch_deg", "roll_deg"):
        np.testing.assert_allclose(getattr(read, name), getattr(made, name), atol=0.051)
    for name in POINTS:  # a face of 180 px: the unit is 1/4 px
        np.testing.assert_allclose(getattr(read, name), getattr(made, name), atol=0.126)
    assert {field.name for field in fields(read)} == {field.name for field in fields(made)}


def test_numpy_alone_reads_it_as_the_page_says() -> None:
    made = made_geometry()
    with np.load(io.BytesIO(encode_geometry(made)), allow_pickle=False) as arrays:
        rows = arrays["mouth_outer"]
        places = np.cumsum(np.cumsum(rows, axis=1, dtype=np.int16), axis=0, dtype=np.int16) * arrays["unit_px"]
    np.testing.assert_allclose(places, made.mouth_outer, atol=0.126)


def test_a_small_face_in_a_huge_picture_has_a_coarser_unit() -> None:
    small = made_geometry()
    small = replace(small, face_box=small.face_box * 0 + np.array([[15_900, 100], [15_950, 160]], np.float32))
    read = decode_geometry(encode_geometry(small), 30)
    np.testing.assert_allclose(read.face_box, small.face_box, atol=0.5)


def test_both_ways_between_crop_and_source_are_inverse() -> None:
    made = made_geometry()
    in_crop = made.in_crop(made.mouth_outer)
    back = made.to_source()
    np.testing.assert_allclose(
        in_crop @ back[:, :, :2].transpose(0, 2, 1) + back[:, None, :, 2], made.mouth_outer, rtol=1e-3, atol=0.5
    )


def with_arrays(**changes: Any) -> bytes:
    """The made geometry with other arrays, or without those that are None."""
    with np.load(io.BytesIO(encode_geometry(made_geometry()))) as found:
        arrays = {**found, **changes}
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


def with_member(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO(with_arrays(**{name: None}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(f"{name}.npy", content, method)
    return buffer.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def hostile() -> list[bytes]:
    whole = encode_geometry(made_geometry())
    nothing = np.zeros((30, 2, 3), np.float32)
    return [
        b"",
        b"PK\x03\x04" + bytes(100),
        whole[: len(whole) // 2],
        whole.replace(b"to_crop.npy", b"to_frog.npy"),
        with_arrays(found=None),
        with_arrays(found=np.array([print] * 30, dtype=object)),  # a pickle
        with_arrays(version=np.int32(2)),
        with_arrays(to_crop=nothing),  # shows a point
        with_arrays(to_crop=nothing + np.float32(np.nan)),
        with_arrays(to_crop=np.zeros((30, 3, 3), np.float32)),
        with_arrays(to_crop=np.zeros((30, 2, 3))),
        with_arrays(frame_size_px=np.zeros((30, 2), np.int32)),
        with_arrays(outside_ratio=np.full(30, 2, np.float16)),
        with_arrays(unit_px=np.float32(np.inf)),
        with_arrays(crop_px=np.int32(-1)),
        with_arrays(mouth_outer=np.zeros((30, 0, 2), np.int16)),
        with_arrays(mouth_outer=np.zeros((29, 20, 2), np.int16)),
        with_member("found", bytes(2**27)),  # 128 MB of zeros in 130 kB
        with_member("found", header("{'descr': '|b1', 'fortran_order': False, 'shape': (999999999999,), }\n")),
        with_member("found", header("{'descr': '|b1', 'fortran_order': False, 'shape': (" + "(" * 5000 + "\n")),
        with_member("found", b"no array", zipfile.ZIP_LZMA),
        with_member("found", b"no array"),
    ]


@pytest.mark.parametrize("data", hostile(), ids=range(22))
def test_what_is_no_geometry_is_refused(data: bytes) -> None:
    with pytest.raises(GeometryError):
        decode_geometry(data, 30)


def test_any_flipped_byte_is_refused_or_harmless() -> None:
    whole = encode_geometry(made_geometry())
    for place in range(0, len(whole), 97):
        data = bytearray(whole)
        data[place] ^= 0x55
        with contextlib.suppress(GeometryError):
            assert len(decode_geometry(bytes(data), 30)) == 30


# --- of a prepared clip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_talking_photo(tmp_path_factory.mktemp("talker") / "talker.mp4", 1.6, size_px=SIDE_PX)


@pytest.fixture(scope="module")
def dataset(source: Path, models: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("prepared") / "dataset"
    open_limits = {
        "min_clip_s": 1.0,
        "min_speech_ratio": 0,
        "min_sync_confidence": -1,
        "max_av_offset_frames": 15,
        "min_quality": 0,
    }
    config = {**LOCAL.model_dump(), "cut": SHORT, "thresholds": open_limits}
    run_prepare([str(source)], out, PrepareConfig.model_validate(config))
    return str(out)


@pytest.fixture(scope="module")
def sample(dataset: str) -> Sample:
    (row,) = read_manifest(dataset).to_pylist()
    assert (row["status"], row["align_template"], row["outside_ratio"]) == ("kept", "latentsync", 0.0)
    return read_sample(dataset, row)


@pytest.fixture(scope="module")
def source_frames(source: Path) -> list[np.ndarray]:
    with av.open(str(source)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def project(frame: np.ndarray, geometry: ClipGeometry, index: int) -> np.ndarray:
    side = geometry.crop_px
    return cv2.warpAffine(
        frame, geometry.to_crop[index].astype(np.float64), (side, side), borderMode=cv2.BORDER_REPLICATE
    )


def test_a_projected_source_frame_is_the_stored_crop(sample: Sample, source_frames: list[np.ndarray]) -> None:
    assert sample.geometry is not None
    crops = decode_mp4(sample.mp4)
    for index in (0, 13, len(crops) - 1):
        assert cv2.PSNR(project(source_frames[index], sample.geometry, index), crops[index]) > 36
        assert cv2.PSNR(project(source_frames[(index + 20) % 40], sample.geometry, index), crops[index]) < 30


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The functions of docs/geometry.md."""
    text = (Path(__file__).parents[1] / "docs" / "geometry.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(snippet, "geometry.md", "exec"), names)
    return names


def test_a_crop_is_pasted_back_to_where_it_came_from(
    sample: Sample, source_frames: list[np.ndarray], page: dict[str, Any]
) -> None:
    geometry, crops = sample.geometry, decode_mp4(sample.mp4)
    assert geometry is not None and geometry.frame_size_px[9].tolist() == [SIDE_PX, SIDE_PX]
    assert cv2.PSNR(page["crop_of"](source_frames[9], geometry, 9), crops[9]) > 36
    elsewhere = np.zeros_like(source_frames[9])
    pasted = page["paste"](elsewhere, crops[9], np.ones((256, 256)), geometry, 9)
    covered = cv2.erode((pasted.max(axis=2) > 0).astype(np.uint8), np.ones((7, 7))) == 1
    assert covered.mean() > 0.15
    assert np.abs(pasted.astype(float) - source_frames[9])[covered].mean() < 3
    again = page["paste"](source_frames[9], crops[9], np.ones((256, 256)), geometry, 9)
    assert cv2.PSNR(again, source_frames[9]) > 36
    assert page["unstretched"](crops[9]).shape == (256, 192, 3)


def test_the_masked_mouth_is_what_moves(sample: Sample, page: dict[str, Any]) -> None:
    geometry, crops = sample.geometry, decode_mp4(sample.mp4)
    assert geometry is not None
    moves = crops[::4].astype(np.float32).std(axis=0).mean(axis=2)
    mask = page["mouth_mask"](geometry, 9) == 1
    assert 0.01 < mask.mean() < 0.15
    assert moves[mask].mean() > 3 * moves[~mask].mean()


def test_the_mouth_outline_lies_on_the_mouth(sample: Sample) -> None:
    """The photograph says where the mouth is, and its movement is known."""
    geometry = sample.geometry
    assert geometry is not None
    for index in range(0, 40, 8):
        to_photograph = _move_head(index / 25, SIDE_PX / 256)
        outer, inner = (
            points[index] @ to_photograph[:, :2].T + to_photograph[:, 2]
            for points in (geometry.mouth_outer, geometry.mouth_inner)
        )
        assert outer[:, 0].mean() == pytest.approx(_MOUTH_X, abs=4)
        assert inner[:, 1].min() == pytest.approx(_UPPER_LIP_Y, abs=5)
        assert _UPPER_LIP_Y - 12 < outer[:, 1].min() < inner[:, 1].min()
        assert inner[:, 1].max() < outer[:, 1].max() < _UPPER_LIP_Y + WIDEST_OPENING_PX + 22
        assert (np.ptp(inner, axis=0) < np.ptp(outer, axis=0)).all()


def test_box_and_outline_hold_the_face_and_the_pose_looks_ahead(sample: Sample) -> None:
    geometry = sample.geometry
    assert geometry is not None and geometry.found.all()
    low, high = geometry.face_box[:, :1], geometry.face_box[:, 1:]
    for points in (geometry.mouth_outer, geometry.alignment_points, geometry.face_outline):
        assert (points >= low - 1).all() and (points <= high + 1).all()
    left, right, nose = geometry.alignment_points.transpose(1, 0, 2)
    assert (left[:, 0] < nose[:, 0]).all() and (nose[:, 0] < right[:, 0]).all() and (nose[:, 1] > left[:, 1]).all()
    for index in range(len(geometry)):
        outline = geometry.face_outline[index].astype(np.float32)
        assert all(cv2.pointPolygonTest(outline, point, False) > 0 for point in geometry.mouth_outer[index].tolist())
    assert np.abs(geometry.yaw_deg).max() < 30 and np.abs(geometry.pitch_deg).max() < 30
    assert np.abs(geometry.roll_deg).max() < 20


def test_geometry_takes_few_bytes_of_a_sample(sample: Sample) -> None:
    assert sample.geometry is not None
    size = len(encode_geometry(sample.geometry))
    assert size / len(sample.geometry) < 200
    assert size < 0.15 * len(sample.mp4)  # of a still photograph in large part, which compresses well


def test_preparing_again_gives_the_same_bytes(sample: Sample, source: Path, tmp_path: Path, dataset: str) -> None:
    assert sample.geometry is not None
    config = PrepareConfig.model_validate({**LOCAL.model_dump(), "cut": SHORT, "thresholds": {"min_clip_s": 1.0}})
    run_prepare([str(source)], tmp_path / "again", config)
    (part,) = [*(tmp_path / "again").glob("parts/*/*.tar"), *(tmp_path / "again").glob("shards/*/*.tar")]
    assert encode_geometry(sample.geometry) in part.read_bytes()
    assert set(sample.about["sha256"]) == {"mp4", "flac", "npz"}


# --- streams that change their size, and gaps


@pytest.fixture(scope="module")
def backend(models: dict[str, bytes]) -> MediaPipeFaces:
    return MediaPipeFaces(models)


def aligned_clip(frames: list[Frame], backend: FaceBackend, config: AlignConfig) -> Clip:
    faces, unit = FacesConfig(), make_unit(len(frames))
    tracked = TrackFaces(faces, backend).process(iter(frames))
    cutter = CutRuns(CutConfig.model_validate(SHORT), faces, config, backend)
    (clip,) = [clip for clip in cutter.process(unit, tracked) if clip.reason is None]
    (aligned,) = AlignFace(config, faces, backend).process(clip)
    return aligned


@pytest.mark.parametrize("template", ["latentsync", "musetalk"])
def test_each_frame_has_its_own_pixels_where_a_stream_changes_its_size(template: str, backend: MediaPipeFaces) -> None:
    pictures, _ = render(1.2, size_px=SIDE_PX)
    shown = [
        picture if index < 15 else cv2.resize(picture, (SIDE_PX // 2, SIDE_PX // 2), interpolation=cv2.INTER_AREA)
        for index, picture in enumerate(pictures)
    ]
    frames = [Frame(index, Picture.of(rgb), scale=rgb.shape[0] / SIDE_PX) for index, rgb in enumerate(shown)]
    clip = aligned_clip(frames, backend, AlignConfig.model_validate({"template": template}))
    assert clip.frames is not None
    geometry = decode_geometry(clip.npz, 30)
    assert geometry.frame_size_px[:, 0].tolist() == [SIDE_PX] * 15 + [SIDE_PX // 2] * 15
    for index in (3, 14, 15, 26):
        assert cv2.PSNR(project(shown[index], geometry, index), clip.frames[index]) > 45
    sizes = np.ptp(geometry.face_outline, axis=1)[:, 1]
    assert sizes[15:].mean() == pytest.approx(sizes[:15].mean() / 2, rel=0.05)
    in_crop = geometry.in_crop(geometry.mouth_outer).mean(axis=1)
    assert np.abs(np.diff(in_crop, axis=0)).max() < 8  # no jump in the crop


def test_frames_in_a_gap_are_marked_and_lie_between_their_neighbours() -> None:
    script = everywhere(130, LEFT_BOX)
    for number in range(60, 63):
        del script[number]
    (clip,) = cut(script, make_unit(130))
    (aligned,) = AlignFace(AlignConfig(), FacesConfig(), FakeFaces({})).process(clip)
    geometry = decode_geometry(aligned.npz, 130)
    assert np.flatnonzero(~geometry.found).tolist() == [60, 61, 62]
    np.testing.assert_allclose(geometry.face_box[61].ravel(), LEFT_BOX, atol=0.2)
    assert geometry.frame_size_px[61].tolist() == [480, 240]


def test_a_face_at_the_edge_says_how_much_of_its_crop_is_outside() -> None:
    box = (60.0, 140.0, 150.0, 260.0)  # of a picture of 240 lines
    (clip,) = cut(everywhere(130, box), make_unit(130), crop=AlignConfig(max_hidden_ratio=1))
    (aligned,) = AlignFace(AlignConfig(), FacesConfig(), FakeFaces({})).process(clip)
    geometry = decode_geometry(aligned.npz, 130)
    rows = [np.array([x, y, 1.0]) @ geometry.to_source()[50].T for x in range(0, 256, 5) for y in range(0, 256, 5)]
    below = np.mean([y > 239.5 for _, y in rows])
    assert geometry.outside_ratio[50] == pytest.approx(below, abs=0.02) and below > 0.02
    assert aligned.measures["outside_ratio"] == pytest.approx(geometry.outside_ratio.max(), abs=1e-3)


def test_insightface_gives_outlines_of_mouth_and_face() -> None:
    points = np.arange(106 * 2, dtype=np.float32).reshape(1, 106, 2)
    found = InsightFaces.outlines(None, points)  # type: ignore[arg-type]
    chosen = [{int(x) // 2 for x, _ in outline[0]} for outline in found]
    assert [len(points) for points in chosen] == [12, 8, 43] == [outline.shape[1] for outline in found]
    assert chosen[0] | chosen[1] == set(range(52, 72))  # the mouth's points, each once
    assert chosen[2] >= set(range(33)) and not chosen[2] & (chosen[0] | chosen[1])


def test_a_sample_without_geometry_still_reads(dataset: str, sample: Sample, tmp_path: Path) -> None:
    about = {name: value for name, value in sample.about.items() if name != "sha256"}
    data = sample_bytes(about["key"], clip_members(sample.mp4, sample.flac, about))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "old.tar").write_bytes(data + END_OF_TAR)
    row = {"key": about["key"], "shard": "shards/old.tar", "sample_offset": 0, "sample_size": len(data)}
    old = read_sample(str(tmp_path), row)
    assert old.geometry is None and old.mp4 == sample.mp4
    assert old.about["sha256"].keys() == {"mp4", "flac"}
