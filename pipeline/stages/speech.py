"""Measure how much of a clip is speech."""

from lipforge.datasets_manifest.schema import Stage
from lipforge.model.audio.speech import SpeechDetector
from lipforge.model.clock import SAMPLES_PER_FRAME, SYNC_MARGIN_FRAMES
from lipforge.pipeline.clip import Clip


class DetectSpeech:
    """Adds `speech_ratio`. Digital silence and instrumental music score near 0."""

    name = Stage.DETECT_SPEECH

    def __init__(self) -> None:
        self.detector = SpeechDetector()

    def process(self, clip: Clip) -> list[Clip]:
        assert clip.audio is not None
        margin = SYNC_MARGIN_FRAMES * SAMPLES_PER_FRAME
        return [clip.measured(speech_ratio=self.detector.speech_ratio(clip.audio[margin:-margin]))]
