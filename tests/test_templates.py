"""Templates of the crop: whose arithmetic they follow, that none changes a score, and who refuses which."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from lipforge.datasets_manifest.selection import SELECTION_COLUMNS, read_selection, write_selection
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.faces.alignment import align, template_points, to_square
from lipforge.model.faces.face import FaceLandmarks
from lipforge.model.faces.picture import Picture
from lipforge.model.faces.templates import MUSETALK_MARGIN_PX, Template, crop_matrices
from lipforge.pipeline.clip import Source, Unit
from lipforge.pipeline.config import AlignConfig, CutConfig, EncodeConfig, FacesConfig, PrepareConfig
from lipforge.pipeline.ledger.settings import resolve
from lipforge.pipeline.recipe import CutOperator, ScoreOperator
from lipforge.pipeline.stages.align import AlignFace, warp
from lipforge.pipeline.stages.cut import CutRuns
from lipforge.pipeline.stages.encode import EncodeClip
from lipforge.pipeline.stages.probe import Probe
from lipforge.train.features.index import INDEX_COLUMNS
from lipforge.train.features.units import plan
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.order import refuse_other_templates
from lipforge.train.stream.preview import draw_sheet
from lipforge.train.stream.stream import SampleStream
from tests.conftest import LOCAL
from tests.scripted_faces import LEFT_BOX, FakeFaces, cut, everywhere, landmarks_in, make_unit
from tests.stream_clips import coded_dataset
from tests.talking_photo import make_talking_photo

POINTS = np.array([[[110.0, 80], [190, 84], [152, 120]]])
BOX = np.array([[[80.0, 40], [220, 200]]])
SIZE = np.array([[320.0, 240]])


def matrix_of(template: Template, resolution: int = 256, box: np.ndarray = BOX) -> np.ndarray:
    return crop_matrices(template, POINTS, box, box, SIZE, resolution, 0.7)[0]


def cropped(frame: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    return cv2.warpAffine(frame, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)


def test_square_has_the_same_points_at_natural_proportions() -> None:
    stretched, square = matrix_of(Template.LATENTSYNC), matrix_of(Template.SQUARE)
    np.testing.assert_allclose(stretched, to_square(align(POINTS, 256), 256)[0])
    across, down = np.linalg.svd(square[:, :2])[1]
    assert across == pytest.approx(down)
    across, down = np.linalg.svd(stretched[:, :2])[1]
    assert across / down == pytest.approx(4 / 3)
    both = [POINTS[0] @ matrix[:, :2].T + matrix[:, 2] for matrix in (stretched, square)]
    np.testing.assert_allclose(both[0][:, 1], both[1][:, 1])  # the same heights
    np.testing.assert_allclose((both[0][:, 0] - 127.5) * 0.75, both[1][:, 0] - 127.5)  # less wide, about the middle
    assert template_points(256)[2, 0] * 256 / 210 == pytest.approx(128)


@pytest.mark.parametrize(
    ("template", "resolution", "box", "rows", "columns"),
    [
        (Template.WAV2LIP, 96, (80, 40, 220, 200), slice(40, 200), slice(80, 220)),
        (Template.WAV2LIP, 256, (-15, -9, 120, 90), slice(0, 90), slice(0, 120)),
        (Template.MUSETALK, 256, (80, 40, 220, 200), slice(40, 200 + MUSETALK_MARGIN_PX), slice(80, 220)),
        (Template.MUSETALK, 256, (250, 100, 330, 236), slice(100, 240), slice(250, 320)),
    ],
)
def test_boxes_are_slices_as_published_code_takes_them(
    template: Template, resolution: int, box: tuple[int, ...], rows: slice, columns: slice
) -> None:
    """Their code: frame[y1:y2, x1:x2], resized to a square."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    frame = cv2.GaussianBlur(noise, (0, 0), 4)
    theirs = cv2.resize(frame[rows, columns], (resolution, resolution), interpolation=cv2.INTER_LINEAR)
    corners = np.array(box, np.float64).reshape(1, 2, 2)
    ours = cropped(frame, matrix_of(template, resolution, corners), resolution)
    inner = (slice(4, -4), slice(4, -4))  # at the border theirs repeats pixels, ours shows what is there
    assert np.abs(ours[inner].astype(int) - theirs[inner]).max() <= 2


def test_musetalk_covers_landmarks_that_the_box_does_not() -> None:
    landmarks = np.array([[[60.0, 90, 0], [200, 210, 0], [100, 100, 0]]])
    matrix = crop_matrices(Template.MUSETALK, POINTS, landmarks, BOX, SIZE, 256, 0)[0]
    left_top, right_bottom = (np.array([[59.5, 39.5], [219.5, 219.5]]) @ matrix[:, :2].T + matrix[:, 2]).tolist()
    np.testing.assert_allclose(left_top, [-0.5, -0.5], atol=1e-9)
    np.testing.assert_allclose(right_bottom, [255.5, 255.5], atol=1e-9)


def test_small_crops_are_for_wav2lip() -> None:
    assert AlignConfig.model_validate({"template": "wav2lip", "resolution": 96}).scored_px == 256
    with pytest.raises(ValidationError, match="for template wav2lip"):
        AlignConfig.model_validate({"template": "square", "resolution": 96})


# --- scores do not depend on the template


@pytest.fixture(scope="module")
def unit(tmp_path_factory: pytest.TempPathFactory) -> Unit:
    path = make_talking_photo(tmp_path_factory.mktemp("talker") / "talker.mp4", 1.2, av_offset_frames=2, size_px=320)
    video = Probe().process(Source(str(path)))
    return Unit(video, 0, video.num_source_frames)


def records(unit: Unit, models: dict[str, bytes], folder: Path, align_settings: dict[str, Any]) -> list[dict[str, Any]]:
    short = {"cut": {"min_run_s": 1.0, "max_clip_s": 2.0}, "thresholds": {"min_clip_s": 1.0}}
    plain = {**LOCAL.model_dump(), "align": align_settings, **short}
    config, hashes = resolve(PrepareConfig.model_validate(plain), models)
    cut_unit = CutOperator(config, models).process(unit)
    assert all(clip.scored_frames is None and clip.frames is None for clip in cut_unit.clips)
    return ScoreOperator(config, models, Store(str(folder)), hashes).process(cut_unit)["rows"]


def test_scores_of_a_clip_are_equal_under_all_templates(unit: Unit, models: dict[str, bytes], tmp_path: Path) -> None:
    settings = [
        *({"template": template.value} for template in Template),
        {"template": "wav2lip", "resolution": 96},
    ]
    found = [records(unit, models, tmp_path / str(number), each) for number, each in enumerate(settings)]
    scores = ("key", "av_offset_frames", "av_drift_frames", "sync_confidence", "sync_distance", "quality")
    first = {name: found[0][0][name] for name in scores}
    assert first["av_offset_frames"] == 2 and first["sync_confidence"] > 0
    for rows, each in zip(found, settings, strict=True):
        (row,) = rows
        assert {name: row[name] for name in scores} == first
        assert (row["align_template"], row["crop_px"]) == (each["template"], each.get("resolution", 256))
    assert len({rows[0]["upscale_ratio"] for rows in found}) == len(settings)


class PixelFaces(FakeFaces):
    """Like InsightFace: lip-sync is scored from pixels."""

    def sync_points(self, points: np.ndarray) -> None:  # type: ignore[override]
        return None


def test_where_lip_sync_is_scored_from_pixels_they_are_those_of_latentsync() -> None:
    encoded = {}
    for template in (Template.LATENTSYNC, Template.WAV2LIP):
        config = AlignConfig(template=template)
        (clip,) = cut(everywhere(130, LEFT_BOX), make_unit(130), crop=config)
        (aligned,) = AlignFace(config, FacesConfig(), PixelFaces({})).process(clip)
        (encoded[template],) = EncodeClip(EncodeConfig(preset="ultrafast")).process(aligned)
    usual, other = encoded[Template.LATENTSYNC], encoded[Template.WAV2LIP]
    assert usual.scored_mp4 == b"" and other.scored_mp4 == usual.mp4 != other.mp4
    np.testing.assert_array_equal(other.quality_frames, usual.quality_frames)


def test_the_crop_of_a_large_face_is_averaged_down_not_skipped() -> None:
    """96 px of a face of hundreds: every source pixel counts."""
    rng = np.random.default_rng(0)
    frame = np.repeat(rng.integers(0, 256, (900, 1200, 1), dtype=np.uint8), 3, axis=2)
    face = FaceLandmarks(landmarks_in((300.0, 200.0, 780.0, 780.0)), 1.0)
    config = AlignConfig(template=Template.WAV2LIP, resolution=96)
    piece = CutRuns(CutConfig(), FacesConfig(), config, FakeFaces({})).piece(Picture.of(frame), face)
    assert piece is not None and piece.stored is not None and piece.stored.step == 5
    box = np.array(face.box).reshape(1, 2, 2)
    (matrix,) = crop_matrices(Template.WAV2LIP, POINTS, box, box, np.array([[1200.0, 900]]), 96, 0)
    assert warp(piece.stored, matrix, 96).std() < 25  # noise of deviation 74, averaged over 5 x 5 pixels


# --- who takes which


def selection(folder: Path, templates: list[str | None]) -> str:
    rows = coded_dataset(folder / "dataset", [len(templates)], 70)
    index = rows.schema.get_field_index("align_template")
    rows = rows.set_column(index, rows.schema.field(index), pa.array(templates, pa.string()))
    write_selection(str(folder / "all.parquet"), rows, {})
    return str(folder / "all.parquet")


def first_batch(path: str) -> dict[str, Any]:
    return next(iter(SampleStream(StreamConfig(selection=path, num_workers=0))))


def test_a_stream_refuses_mixed_templates_and_old_crops_are_latentsyncs(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"templates latentsync, square in one selection: .*'latentsync'\) = 'latentsync'"
    ):
        first_batch(selection(tmp_path / "mixed", [None, "square", "latentsync"]))
    batch = first_batch(selection(tmp_path / "old", [None, "latentsync"]))
    assert batch["mouth_mask"].shape == (1, 128, 128)


def test_a_stream_of_another_template_has_no_mask_of_ours(tmp_path: Path) -> None:
    path = selection(tmp_path, ["musetalk", "musetalk"])
    batch = first_batch(path)
    assert batch["target"].shape == (1, 16, 128, 128, 3) and "mouth_mask" not in batch
    assert draw_sheet(path, 1).ndim == 3


def test_what_needs_our_mask_refuses_other_templates_in_words(tmp_path: Path) -> None:
    rows = read_selection(selection(tmp_path, ["wav2lip", "wav2lip"]))
    with pytest.raises(
        ValueError, match="crops of template wav2lip, but the mask of the trainers fits those of latentsync"
    ):
        refuse_other_templates(rows, "the mask of the trainers")
    none_yet = INDEX_COLUMNS.empty_table()
    with pytest.raises(ValueError, match="template wav2lip"):
        plan(rows, none_yet, ("vae_target", "vae_masked"))
    assert plan(rows, none_yet, ("mel",))  # sound fits any crop


def test_a_selection_of_an_earlier_version_still_reads(tmp_path: Path) -> None:
    path = selection(tmp_path, [None, None])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["align_template", "outside_ratio"]), tmp_path / "old.parquet")
    old = read_selection(str(tmp_path / "old.parquet"))
    assert old.schema.equals(SELECTION_COLUMNS) and old["key"].equals(table["key"])
    pq.write_table(table.drop_columns(["crop_px"]), tmp_path / "damaged.parquet")
    with pytest.raises(ValueError, match="does not have the columns"):
        read_selection(str(tmp_path / "damaged.parquet"))
