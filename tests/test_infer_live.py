"""Live: frames follow the sound by a stated delay, in sound that has arrived, and the stream can be played."""

import io
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from lipforge.model.clock import FPS, SAMPLES_PER_FRAME
from lipforge.pipeline.infer import live
from lipforge.pipeline.infer.lips import Identity
from lipforge.pipeline.infer.live import STEP_FRAMES, Feed, delay_s, run_live, stream_live
from lipforge.pipeline.infer.request import IDENTITY, InferConfig, InferError
from lipforge.pipeline.infer.source import open_source
from lipforge.pipeline.infer.voice import open_live_voice
from tests.talking_photo import babble, make_talking_photo

CONFIG = InferConfig(model=IDENTITY)
PATIENCE_S = 60.0


class Hearing(Identity):
    """Draws nothing, but waits for its sound as a network does."""

    audio_encoder = "mel"

    def draw(self, faces: np.ndarray, tokens: torch.Tensor | None) -> torch.Tensor:
        assert tokens is not None and len(tokens) == len(faces) == 16
        return super().draw(faces, tokens)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_talking_photo(tmp_path_factory.mktemp("live") / "talk.mp4", 1.0, size_px=256)


def test_each_frame_waits_for_no_more_sound_than_the_stated_delay(talk: Path, tmp_path: Path, monkeypatch):
    source = open_source(str(talk), "live.mkv", CONFIG)
    chosen = source.choose(tmp_path, CONFIG, tmp_path / "x.mkv", lambda done_s: None, lambda: False)
    feed, written = Feed(), threading.Condition()
    count = [0]
    write = live._Writer.write

    def counted(self, image, pts, samples):
        write(self, image, pts, samples)
        with written:
            count[0] += 1
            written.notify_all()

    monkeypatch.setattr(live._Writer, "write", counted)
    model, target = Hearing(), io.BytesIO()
    voice = open_live_voice(feed.read, model.audio_encoder)
    results = []
    session = threading.Thread(
        target=lambda: results.append(stream_live(source, chosen, model, voice, feed, target)), daemon=True
    )
    session.start()
    sound = babble(3.0)
    behind = int(np.ceil(delay_s(voice) * FPS))
    assert behind <= STEP_FRAMES + 1
    for frame in range(60):
        feed.put(sound[frame * SAMPLES_PER_FRAME : (frame + 1) * SAMPLES_PER_FRAME])
        with written:
            assert written.wait_for(lambda due=frame + 1 - behind: count[0] >= due, PATIENCE_S)
            assert count[0] <= frame + 1
    feed.finish()
    session.join(PATIENCE_S)
    assert results[0].num_frames == 60 and results[0].duration_s == pytest.approx(2.4)
    with av.open(io.BytesIO(target.getvalue())) as container:
        assert sum(1 for _ in container.decode(video=0)) == 60


def test_a_pipe_of_pcm_becomes_a_file_with_its_sound(talk: Path, tmp_path: Path, monkeypatch):
    reading, writing = os.pipe()
    sound = babble(1.2)
    pcm = (sound * 32767).astype("<i2").tobytes()

    def speak() -> None:
        with os.fdopen(writing, "wb") as pipe:
            for first in range(0, len(pcm), 1001):  # samples are cut in two
                pipe.write(pcm[first : first + 1001])

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=os.fdopen(reading, "rb")))
    threading.Thread(target=speak).start()
    said: list[str] = []
    result = run_live(str(talk), "-", str(tmp_path / "live.mkv"), CONFIG, said.append)
    assert result.num_frames == 30
    assert "after their sound" in said[0]
    with av.open(str(tmp_path / "live.mkv")) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    np.testing.assert_array_equal(heard, np.frombuffer(pcm, "<i2")[: len(heard)])
    assert len(heard) == 30 * SAMPLES_PER_FRAME


def test_a_sound_file_in_the_place_of_raw_samples_is_named(talk: Path, tmp_path: Path, monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, b"RIFF1234WAVE")
    os.close(writing)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=os.fdopen(reading, "rb")))
    with pytest.raises(InferError, match="ffmpeg -i FILE"):
        run_live(str(talk), "-", str(tmp_path / "live.mkv"), CONFIG, print)


def test_live_outputs_that_cannot_be_are_refused_in_words(talk: Path, tmp_path: Path, monkeypatch):
    taken = tmp_path / "taken.mkv"
    taken.write_bytes(b"mine")
    mine = tmp_path / "idle.mkv"
    mine.write_bytes(talk.read_bytes())
    with pytest.raises(InferError, match="is an input"):
        run_live(str(mine), "-", str(mine), CONFIG.model_copy(update={"overwrite": True}), print)
    assert mine.read_bytes() == talk.read_bytes()
    for out, words in ((str(taken), "exists"), (str(tmp_path / "x.mp4"), r"\.mkv")):
        with pytest.raises(InferError, match=words):
            run_live(str(talk), "-", out, CONFIG, print)
    assert taken.read_bytes() == b"mine"
    with pytest.raises(InferError, match=r"microphone|not known"):
        run_live(str(talk), "mic", str(tmp_path / "x.mkv"), CONFIG, print)
