"""What a sample shows: windows of one clip, with audio and frames of the same moment."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lipforge.datasets_manifest.sample import clip_members, read_clip, sample_bytes
from lipforge.model.audio.mel import mel_spectrogram
from lipforge.model.audio.windows import audio_rows
from lipforge.model.clock import FPS, SAMPLES_PER_FRAME
from lipforge.model.denoiser.mask import hide_mouth, mouth_mask, to_pixels
from lipforge.pipeline.config import EncodeConfig
from lipforge.pipeline.media.clips import decode_mp4, encode_mp4
from lipforge.train.stream import preview
from lipforge.train.stream.config import StreamConfig
from lipforge.train.stream.decode import DamagedSampleError, decode_windows, mel_columns, mel_window
from lipforge.train.stream.order import draw_starts
from lipforge.train.stream.preview import GAP_PX, NUM_SHOWN, TEXT_PX, draw_sheet
from lipforge.train.stream.preview import SIDE_PX as SHEET_SIDE_PX
from lipforge.train.stream.stream import SampleStream
from tests.golden import golden_arrays, golden_fill, golden_json
from tests.stream_clips import (
    SIDE_PX,
    Moment,
    coded_dataset,
    coded_frame,
    coded_sample,
    key_of,
    moment_of,
    select,
    write_shards,
)

HOP_S = 1 / 80


def batches_of(selection: str, **settings: object) -> list[dict]:
    config = StreamConfig.model_validate({"selection": selection, "num_workers": 0, "batch_size": 4, **settings})
    return list(SampleStream(config, num_epochs=1))


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("samples")
    return select(folder / "all.parquet", coded_dataset(folder / "dataset", [6, 6], num_frames=60))


@pytest.mark.parametrize("num_frames", [16, 5])
def test_target_and_reference_are_windows_of_the_clip_without_a_common_frame(selection: str, num_frames: int) -> None:
    for batch in batches_of(selection, num_frames=num_frames):
        for index, key in enumerate(batch["key"]):
            start, reference_start = int(batch["start"][index]), int(batch["reference_start"][index])
            clip = int(key[8:], 16)
            for window, first in (("target", start), ("reference", reference_start)):
                shown = [moment_of(frame) for frame in batch[window][index].numpy()]
                assert shown == [Moment(clip % 16, frame) for frame in range(first, first + num_frames)]
            assert abs(start - reference_start) >= num_frames


def test_a_batch_has_the_shapes_of_the_trainers(selection: str) -> None:
    batch = batches_of(selection)[0]
    assert batch["target"].shape == batch["reference"].shape == (4, 16, SIDE_PX, SIDE_PX, 3)
    assert batch["target"].dtype == torch.uint8
    assert batch["mel"].shape == (4, 80, 52)
    assert batch["audio_rows"].shape == (4, 16, 10)
    assert [len(audio) for audio in batch["audio"]] == [60 * SAMPLES_PER_FRAME] * 4
    assert batch["mouth_mask"].shape == (1, SIDE_PX, SIDE_PX)
    assert batches_of(selection, num_frames=5)[0]["mel"].shape == (4, 80, 16)


def test_click_and_flash_are_at_the_same_moment_of_a_window(tmp_path: Path) -> None:
    num_frames, flash_at = 60, 30
    frames = np.full((num_frames, SIDE_PX, SIDE_PX, 3), 40, np.uint8)
    frames[flash_at] = 220
    audio = np.zeros(num_frames * SAMPLES_PER_FRAME, np.float32)
    audio[flash_at * SAMPLES_PER_FRAME : flash_at * SAMPLES_PER_FRAME + 8] = 0.9
    samples = [coded_sample(clip, num_frames, frames, audio) for clip in range(12)]
    rows = write_shards(tmp_path / "dataset", [samples], [num_frames] * 12)
    num_seen = 0
    for batch in batches_of(select(tmp_path / "s.parquet", rows), seed=3):
        for target, mel in zip(batch["target"].numpy(), batch["mel"].numpy(), strict=True):
            brightness = target.mean(axis=(1, 2, 3))
            if brightness.max() > 150:
                num_seen += 1
                flash_s = int(brightness.argmax()) / FPS
                loudness = mel.mean(axis=0)
                heard = np.flatnonzero(loudness > loudness.min() + 0.5)
                assert abs(heard.mean() * HOP_S - flash_s) <= 1.5 * HOP_S  # a column is 12.5 ms, a frame 40 ms
    assert num_seen >= 2


def test_the_mel_of_a_window_is_cut_from_the_mel_of_the_clip() -> None:
    rng = np.random.default_rng(0)
    for clip_frames in (125, 126, 133):
        audio = rng.normal(0, 0.1, clip_frames * SAMPLES_PER_FRAME).astype(np.float32)
        whole = mel_spectrogram(audio)
        for num_frames, num_columns in ((16, 52), (5, 16)):
            for start in (0, 1, 2, 50, clip_frames - num_frames):
                first, count = mel_columns(start, num_frames)
                assert (first, count) == (int(80 * start / 25), num_columns)
                assert np.abs(mel_window(audio, first, count) - whole[:, first : first + count]).max() < 1e-5


def test_audio_rows_are_the_published_ones() -> None:
    expected = golden_json("audio_windows.json")
    clip_frames = expected["feature_shape"][0] // 2
    for frame, rows in expected["index_per_frame"].items():
        assert audio_rows(int(frame), 1, clip_frames)[0].tolist() == rows


def test_pixels_and_mask_are_the_published_ones() -> None:
    expected = golden_arrays("train/mouth_mask.npz")
    frames = (torch.sigmoid(torch.as_tensor(golden_fill().draw(23, "frames", (2, 96, 96, 3)))) * 255).to(torch.uint8)
    pixels = to_pixels(frames, 64)
    assert np.abs(pixels.numpy() - expected["pixels"]).max() < 1e-6
    # The published mask was shrunk with Lanczos' filter; away from edges it is 0 or 1.
    published = 1 - expected["mask"][0, 0]
    flat = np.ones_like(published, bool)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            flat &= np.abs(np.roll(published, (down, right), (0, 1)) - published) < 0.02
    mask = mouth_mask(64)
    assert flat.mean() > 0.85
    assert (mask[0].numpy()[flat] == published[flat].round()).all()
    masked = hide_mouth(pixels, mask).numpy()
    flat &= np.isclose(published, published.round())
    assert np.abs(masked - expected["masked"])[..., flat].max() < 1e-6


@pytest.mark.parametrize("resolution", [64, 256, 512])
def test_the_mask_is_1_where_the_mouth_is(resolution: int) -> None:
    mask = mouth_mask(resolution)[0]
    unit = resolution // 64
    assert mask[48 * unit, 32 * unit] == 1  # the mouth
    assert mask[26 * unit, 32 * unit] == 0  # the nose
    assert mask[8 * unit].sum() == 0  # the eyes
    assert float(1 - mask.mean()) == pytest.approx(0.593, abs=0.01)


def test_pixels_of_a_batch_keep_its_leading_axes() -> None:
    frames = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    pixels = to_pixels(frames, 64)
    assert pixels.shape == (2, 3, 3, 64, 64)
    assert torch.equal(((pixels[1, 2] + 1) * 127.5).round().to(torch.uint8).movedim(0, -1), frames[1, 2])


@pytest.mark.parametrize("starts", [(0, 44), (44, 0), (12, 28), (11, 33), (7,)])
def test_windows_are_decoded_as_the_whole_clip_is(starts: tuple[int, ...]) -> None:
    mp4 = encode_mp4(np.stack([coded_frame(3, frame) for frame in range(60)]), EncodeConfig())
    whole = decode_mp4(mp4)
    for start, window in zip(starts, decode_windows(mp4, 60, SIDE_PX, starts, 16), strict=True):
        assert np.array_equal(window, whole[start : start + 16])


def test_a_syncnet_sample_has_audio_of_its_frames_and_of_another_moment(selection: str) -> None:
    distances = []
    for seed in range(12):
        for batch in batches_of(selection, task="syncnet", num_frames=16, seed=seed):
            assert "reference" not in batch
            for index, key in enumerate(batch["key"]):
                start, negative_start = int(batch["start"][index]), int(batch["negative_start"][index])
                assert moment_of(batch["target"][index][0].numpy()) == Moment(int(key[8:], 16) % 16, start)
                quiet_to_loud = batch["negative_mel"][index].mean() > batch["mel"][index].mean()
                if abs(start - negative_start) > 20:  # the audio of these clips gets louder with time
                    assert bool(quiet_to_loud) == (negative_start > start)
                distances.append(abs(start - negative_start))
    assert min(distances) in (3, 4, 5)
    apart = batches_of(selection, task="syncnet", num_frames=5, min_negative_distance_frames=40)
    assert min(int(d) for batch in apart for d in (batch["start"] - batch["negative_start"]).abs()) >= 40


def test_every_place_of_a_window_is_drawn() -> None:
    starts, other_starts = zip(*(draw_starts(0, epoch, "key", 45, 16) for epoch in range(3000)), strict=True)
    assert set(starts) == set(other_starts) == set(range(45))
    counts = np.bincount(starts, minlength=45)
    assert np.sum((counts - 3000 / 45) ** 2 / (3000 / 45)) < 80  # chi-square, 44 degrees of freedom: p = 0.0007


def test_starts_without_a_second_window_are_not_drawn() -> None:
    pairs = [draw_starts(0, epoch, "key", 25, 16) for epoch in range(500)]
    assert {start for start, _ in pairs} == {*range(9), *range(16, 25)}
    assert all(abs(start - other_start) >= 16 for start, other_start in pairs)


def test_windows_depend_on_seed_epoch_and_key() -> None:
    first = draw_starts(0, 0, "a", 200, 16)
    assert first == draw_starts(0, 0, "a", 200, 16)
    assert (
        len({first, draw_starts(1, 0, "a", 200, 16), draw_starts(0, 1, "a", 200, 16), draw_starts(0, 0, "b", 200, 16)})
        == 4
    )


def test_clips_too_short_for_two_windows_are_refused(tmp_path: Path) -> None:
    rows = coded_dataset(tmp_path / "dataset", [3], num_frames=31)
    selection = select(tmp_path / "s.parquet", rows)
    with pytest.raises(ValueError, match=r"32 frames.*lipforge select --window-frames 16"):
        batches_of(selection)
    assert len(batches_of(selection, task="syncnet")) == 1
    with pytest.raises(ValueError, match=r"abc.*--window-frames"):
        draw_starts(0, 0, "abc", 16, 16)


def test_media_that_are_not_what_the_manifest_says_are_damaged(tmp_path: Path) -> None:
    other_frames = np.zeros((32, 144, 160, 3), np.uint8)
    at_8_khz = flac_at(8_000, 32 * SAMPLES_PER_FRAME)
    whole = coded_sample(0, 32)
    members = read_clip(whole, len(whole), key_of(0))
    for mp4, flac, words in (
        (encode_mp4(other_frames, EncodeConfig()), members["flac"], "160 x 144 pixels, 128 x 128 expected"),
        (members["mp4"], at_8_khz, "1 channels at 8000 Hz"),
        (members["mp4"].replace(b"avc1", b"zzzz"), members["flac"], "video"),
    ):
        sample = sample_bytes(key_of(0), clip_members(mp4, flac, {"key": key_of(0)}))
        rows = write_shards(tmp_path / "dataset", [[sample]], [32])
        (tmp_path / "s.parquet").unlink(missing_ok=True)
        with pytest.raises(DamagedSampleError, match=words):
            batches_of(select(tmp_path / "s.parquet", rows), batch_size=1)


def flac_at(sample_rate_hz: int, num_samples: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=sample_rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, num_samples), np.int16), format="s16", layout="mono")
        frame.sample_rate = sample_rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def test_a_contact_sheet_has_a_line_for_each_sample(selection: str) -> None:
    sheet = draw_sheet(selection, num_samples=3)
    assert sheet.dtype == np.uint8 and sheet.shape[0] == TEXT_PX + 3 * (TEXT_PX + SHEET_SIDE_PX)
    bottom_of_first_line = 2 * TEXT_PX + SHEET_SIDE_PX
    mouth = sheet[bottom_of_first_line - SHEET_SIDE_PX // 4, NUM_SHOWN * SHEET_SIDE_PX + GAP_PX + SHEET_SIDE_PX // 2]
    assert (np.abs(mouth.astype(int) - 128) <= 1).all()  # hidden: grey


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.parquet", "a.png"], "no selection nowhere.parquet"),
        (["{selection}", "a.png", "--samples", "0"], "expected 1 or more"),
        (["{selection}", "a"], "ends in .png"),
        (["{selection}", "no/such/folder/a.png", "--samples", "1"], "No such file or directory"),
        (["{selection}", "a.png", "--split", "val"], "holds no clip"),
    ],
)
def test_errors_of_the_contact_sheet_say_what_is_wrong(
    selection: str, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["preview", *(word.format(selection=selection) for word in arguments)])
    with pytest.raises(SystemExit) as caught:
        preview.main()
    assert caught.value.code not in (0, None)
    assert words in f"{caught.value.code} {capsys.readouterr().err}"
