"""Seconds that the audio does not cover are `no_audio`; the others are used."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from lipforge.datasets_manifest.manifest import read_manifest
from lipforge.datasets_manifest.schema import Reason, Stage, Status
from lipforge.model.clock import FPS, SYNC_MARGIN_FRAMES
from lipforge.pipeline.clip import Clip, Frame, Unit
from lipforge.pipeline.config import AlignConfig, CutConfig, FacesConfig
from lipforge.pipeline.media.audio import NO_AUDIO_S
from lipforge.pipeline.stages.cut import CutRuns
from lipforge.pipeline.stages.faces import TrackFaces
from tests.conftest import run_prepare
from tests.media import BASE_DURATION_S
from tests.scripted_faces import (
    LEFT_BOX,
    RIGHT_BOX,
    FakeFaces,
    Script,
    check_every_frame_has_a_row,
    everywhere,
    make_frames,
    make_unit,
    outcomes,
)
from tests.sounds import DURATION_S, hear, voice, write_sound

END = round(DURATION_S * FPS)


def without_audio(has_audio: np.ndarray) -> list[tuple[int, int]]:
    """Spans of frames without audio: (first, end)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~has_audio, [False]]).astype(int)))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


# --- which frames have audio ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start_s", "duration_s", "holes_s", "missing"),
    [
        (0.0, DURATION_S, (), []),
        (1.0, DURATION_S - 1, (), [(0, 25)]),
        (0.4, DURATION_S - 0.4, (), []),
        (0.0, 4.0, (), [(100, END)]),
        (0.0, DURATION_S - 0.4, (), []),
        (0.0, DURATION_S, ((2.0, 3.0),), [(50, 75)]),
        (0.0, DURATION_S, ((2.0, 2.4), (3.0, 3.4)), []),  # as between packets of comfort noise
        (0.0, DURATION_S, ((2.0, 3.0), (3.2, 4.0)), [(50, 75), (80, 100)]),
        (1.0, 3.0, (), [(0, 25), (100, END)]),
    ],
)
def test_holes_are_found(tmp_path: Path, start_s: float, duration_s: float, holes_s: tuple, missing: list) -> None:
    path = tmp_path / "a.mkv"
    write_sound(path, voice()[None, : round(duration_s * 16_000)], "mono", start_s=start_s, holes_s=holes_s)
    sound = hear(path)
    found = without_audio(sound.has_audio)
    assert np.abs(np.array(found) - missing).max(initial=0) <= 1 and len(found) == len(missing)
    assert not sound.samples.reshape(END, -1)[~sound.has_audio][2:-2].any()
    # wherever a unit begins or ends, with the margins of its audio
    for first, end in ((0, 60), (60, 90), (90, END)):
        part = hear(path, first - SYNC_MARGIN_FRAMES, end + SYNC_MARGIN_FRAMES).has_audio
        np.testing.assert_array_equal(part[SYNC_MARGIN_FRAMES:-SYNC_MARGIN_FRAMES], sound.has_audio[first:end])


def test_silence_that_is_there_is_audio(tmp_path: Path) -> None:
    sound = hear(write_sound(tmp_path / "a.mkv", np.zeros((1, END * 640), np.float32), "mono"))
    assert sound.has_audio.all() and not sound.samples.any()


def test_packets_that_cannot_be_decoded_are_missing(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.aac", voice()[None], "mono", "aac")
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    path.write_bytes(content)
    sound = hear(path)
    assert 1.5 <= (~sound.has_audio).sum() / FPS <= 2.5


def test_a_track_without_a_packet_covers_nothing(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mkv", voice()[None], "mono", holes_s=((0.1, 9.0),))
    assert (~hear(path).has_audio).sum() >= END - NO_AUDIO_S * FPS
    sound = hear(path, 60, 100)
    assert sound.downmix is None and not sound.has_audio.any()


# --- what becomes of them -------------------------------------------------------------------------


def cut_without(missing: Iterable[range], script: Script, unit: Unit, **how) -> list[Clip]:
    def marked() -> Iterator[Frame]:
        for frame in make_frames(unit, **how):
            frame.has_audio = not any(frame.index in span for span in missing)
            yield frame

    backend = FakeFaces(script)
    tracked = TrackFaces(FacesConfig(), backend).process(marked())
    clips = list(CutRuns(CutConfig(), FacesConfig(), AlignConfig(), backend).process(unit, tracked))
    check_every_frame_has_a_row(clips, unit)
    return clips


@pytest.mark.parametrize(
    ("missing", "wanted"),
    [
        ([range(138, 200)], [(0, 138, "kept"), (138, 200, "no_audio")]),
        ([range(0, 50)], [(0, 50, "no_audio"), (50, 200, "kept")]),
        ([range(49, 75)], [(0, 49, "too_short"), (49, 75, "no_audio"), (75, 200, "kept")]),
        ([range(0, 200)], [(0, 200, "no_audio")]),
        ([range(199, 200)], [(0, 199, "kept"), (199, 200, "no_audio")]),
    ],
)
def test_runs_end_where_the_audio_ends(missing: list[range], wanted: list) -> None:
    clips = cut_without(missing, everywhere(200, LEFT_BOX), make_unit(200))
    assert outcomes(clips) == wanted
    for clip in clips:
        if clip.reason is Reason.NO_AUDIO:
            assert (clip.status, clip.stage) == (Status.REJECTED, Stage.RESAMPLE) and clip.detail
            assert clip.measures["max_faces"] == 1
        if clip.reason is Reason.TOO_SHORT:
            assert "until the audio ends" in clip.detail


def test_what_cannot_be_seen_either_is_damage_and_faces_do_not_matter() -> None:
    script = {n: [LEFT_BOX, RIGHT_BOX] for n in range(130)}  # nobody later on
    clips = cut_without([range(130, 170)], script, make_unit(200), undecoded=range(150, 200))
    assert outcomes(clips) == [
        (0, 130, "kept"),
        (0, 130, "kept"),
        (130, 150, "no_audio"),
        (150, 200, "decode_error"),
    ]


def test_the_seconds_before_the_audio_ends_are_kept(talking_clip: Path, tmp_path: Path, models: dict) -> None:
    """From the file to the manifest: 5.4 of 6.4 s."""
    path, ends_s = tmp_path / "ends.mkv", BASE_DURATION_S - 1
    with av.open(str(talking_clip)) as source, av.open(str(path), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            late = packet.pts is not None and packet.stream.type == "audio" and packet.pts * packet.time_base >= ends_s
            if packet.dts is not None and not late:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    out = tmp_path / "dataset"
    run_prepare([str(path)], out)
    kept, missing = sorted(read_manifest(str(out)).to_pylist(), key=lambda row: row["start_s"])
    assert (kept["status"], missing["status"], missing["reason"]) == ("kept", "rejected", "no_audio")
    assert kept["duration_s"] == pytest.approx(ends_s, abs=0.05)
    assert kept["accounted_s"] + missing["accounted_s"] == pytest.approx(BASE_DURATION_S)
    assert kept["audio_downmix"] == "mono" and kept["av_drift_frames"] == 0
