"""Made speakers differ from each other, are the same each time, and pass `prepare` like people."""

from pathlib import Path

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.pipeline.sources.inputs import Labels
from tests.conftest import run_prepare
from tests.made_speakers import LANGUAGES, make_clip, make_speaker


def test_a_number_is_always_the_same_speaker_and_others_differ():
    assert make_speaker(3) == make_speaker(3)
    speakers = [make_speaker(number) for number in range(9)]
    assert len({speaker.voice for speaker in speakers}) == len({speaker.look for speaker in speakers}) == 9
    assert {speaker.language for speaker in speakers} == set(LANGUAGES)


def test_the_same_clip_has_the_same_bytes(tmp_path: Path):
    one, again = (make_clip(tmp_path / name, make_speaker(1), 7, 1.0, size_px=96) for name in ("one.mp4", "again.mp4"))
    assert one.read_bytes() == again.read_bytes()


def test_made_speakers_are_kept_with_their_labels_and_planted_offsets(tmp_path: Path):
    videos, planted = tmp_path / "videos", {"speaker_000": 0, "speaker_003": 3}
    for number, offset in zip((0, 3), planted.values(), strict=True):
        speaker = make_speaker(number)
        make_clip(videos / speaker.language / speaker.name / "0.mp4", speaker, number, 6.0, offset, size_px=256)
    run_prepare([str(videos)], tmp_path / "dataset", labels=Labels(path_template="{language}/{speaker}/"))
    rows = read_manifest(str(tmp_path / "dataset")).to_pylist()
    assert {(row["speaker"], row["language"], row["status"]) for row in rows} == {
        (name, "en", "kept") for name in planted
    }
    assert {row["speaker"]: row["av_offset_frames"] for row in rows} == planted
