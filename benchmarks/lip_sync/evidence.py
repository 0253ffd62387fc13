"""Everything that the lip-sync results page shows."""

from dataclasses import dataclass

from benchmarks.lip_sync.cases import Case, Chance, Change, Turn
from benchmarks.lip_sync.clips import Track
from benchmarks.lip_sync.engine import EngineRun
from benchmarks.lip_sync.measures import Scorer, Scores


@dataclass(frozen=True)
class Evidence:
    """All measurements."""

    scorer: Scorer
    kinds: dict[Track, str]
    unusable: list[str]
    """Files without audio, or without a face that can be followed for 2 s."""
    by_length: dict[int, Scores]
    """Clean windows, by length in frames."""
    whole: list[Case]
    by_face: list[Change]
    changed_audio: list[Change]
    changed_video: list[Change]
    turns: list[Turn]
    chances: list[Chance]
    engine: EngineRun
    score_ms: float
    """CPU milliseconds to score 5 s."""
