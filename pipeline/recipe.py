"""The stages in order, from a video to measured clips. Read this first.

probe            (per source) what the file contains; units are planned from it
---------------- cut, in one worker, because pixels never leave the process that decoded them:
resample         one clock: 25 fps, 16 kHz
split_shots      find the cuts
track_faces      follow every face, frame by frame
cut              usable runs of each face become candidates of 2 to 10 s
align            warp the face to the template
encode           the only lossy encode
---------------- score, in another worker, which gets about 1 MB per clip:
detect_speech    share of the clip with speech
measure_sync     offset between audio and lips, and confidence
measure_quality  image quality
commit           store media and record as one part
---------------- after all units of a segment:
languages        (if `language.whisper` is set) the clips of a source vote for its language
seal             thresholds decide; kept clips are packed into shards
---------------- at the end:
publish          the manifest of all segments is put in force
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lipforge.datasets_manifest.schema import Reason, Status
from lipforge.datasets_manifest.storage.store import Store
from lipforge.model.one_core import use_one_core
from lipforge.pipeline.clip import Clip, Unit
from lipforge.pipeline.config import PrepareConfig, StageResources
from lipforge.pipeline.media.container import MediaError
from lipforge.pipeline.media.video import DecodeCount
from lipforge.pipeline.profiles import PROFILES
from lipforge.pipeline.stages.align import AlignFace
from lipforge.pipeline.stages.commit import Commit
from lipforge.pipeline.stages.cut import CutRuns
from lipforge.pipeline.stages.encode import EncodeClip, poster_of
from lipforge.pipeline.stages.faces import TrackFaces
from lipforge.pipeline.stages.resample import Resample, audio_of
from lipforge.pipeline.stages.shots import SplitShots
from lipforge.pipeline.stages.stage import ClipStage, StageClock, apply


@dataclass(frozen=True)
class CutUnit:
    """What cut passes to score: encoded clips, no full-size pixels."""

    unit: Unit
    clips: list[Clip]
    stage_cpu_s: dict[str, float]
    decode_passes: float


class CutOperator:
    """resample to encode, for one unit at a time."""

    def __init__(self, config: PrepareConfig, models: Mapping[str, bytes]) -> None:
        use_one_core()
        backend = PROFILES[config.models].faces(models, device_for(config.run.cut))
        self.resample = Resample()
        self.shots = SplitShots(config.shots)
        self.faces = TrackFaces(config.faces, backend)
        self.cut = CutRuns(config.cut, config.faces, config.align, backend)
        self.clip_stages: list[ClipStage] = [AlignFace(config.align, config.faces, backend), EncodeClip(config.encode)]

    def process(self, unit: Unit) -> CutUnit:
        clock = StageClock()
        count = DecodeCount()
        try:
            clips = self._clips(unit, clock, count)
        except MediaError as error:
            clips = [whole_unit(unit, Status.FAILED, self.resample.name, error.reason, error.detail)]
        return CutUnit(unit, clips, clock.cpu_s, count.passes)

    def _clips(self, unit: Unit, clock: StageClock, count: DecodeCount) -> list[Clip]:
        with clock.running(self.resample.name):
            sound = self.resample.audio(unit)
        decoded = clock.stream(self.resample.name, self.resample.decode(unit, count))
        shots = clock.stream(self.shots.name, self.shots.process(decoded))
        frames = clock.stream(self.resample.name, self.resample.to_grid(unit, shots))
        frames = self.resample.mark_audio(unit, sound, frames)
        tracked = clock.stream(self.faces.name, self.faces.process(frames))
        clips = []
        for candidate in clock.stream(self.cut.name, self.cut.process(unit, tracked)):
            for clip in apply(self.clip_stages, candidate, clock):
                audio = audio_of(clip, sound.samples) if clip.mp4 else None
                poster = b"" if clip.mp4 else poster_of(clip)
                done = replace(clip, poster=poster, audio=audio, pieces=[], frames=None, scored_frames=None)
                clips.append(done.measured(audio_downmix=sound.downmix) if clip.mp4 else done)
        return clips


class ScoreOperator:
    """detect_speech to commit, for one unit at a time."""

    def __init__(
        self, config: PrepareConfig, models: Mapping[str, bytes], store: Store, hashes: dict[str, str]
    ) -> None:
        from lipforge.pipeline.stages.quality import MeasureQuality
        from lipforge.pipeline.stages.speech import DetectSpeech
        from lipforge.pipeline.stages.sync import MeasureSync

        use_one_core()
        profile, self.device = PROFILES[config.models], device_for(config.run.score)
        self.stages: list[ClipStage] = [
            DetectSpeech(),
            MeasureSync(profile.sync(models, self.device)),
            MeasureQuality(profile.quality(models, self.device)),
        ]
        self.commit = Commit(store, hashes)

    def process(self, cut: CutUnit) -> dict[str, Any]:
        """Measure and commit; return the unit's record. Its `stage_cpu_s` and `device` are not stored: they differ."""
        clock = StageClock()
        clips = [done for clip in cut.clips for done in apply(self.stages, clip, clock)]
        stage_cpu_s = {name: round(cpu_s, 3) for name, cpu_s in (cut.stage_cpu_s | clock.cpu_s).items()}
        facts = {"decode_passes": cut.decode_passes}
        with clock.running(self.commit.name):
            record = self.commit.write(cut.unit, clips, facts)
        stage_cpu_s[self.commit.name] = round(clock.cpu_s[self.commit.name], 3)
        return {**record, "stage_cpu_s": stage_cpu_s, "device": self.device}


def device_for(resources: StageResources) -> str:
    """cpu or cuda: what a worker that reserved this computes on. Ray shows it its own GPUs only."""
    if not resources.gpus:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def whole_unit(unit: Unit, status: Status, stage: str, reason: Reason, detail: str) -> Clip:
    """The row of a unit without candidates."""
    whole = Clip(unit=unit, start_frame=unit.start_frame, end_frame=unit.end_frame)
    return replace(whole, status=status, stage=stage, reason=reason, detail=detail)
