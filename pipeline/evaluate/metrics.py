"""What an evaluation measures: name, unit, which way is better, and what it needs.

A metric has one name everywhere: in the table, in REPORT/clips.parquet, in metrics of trainers.
"""

from dataclasses import dataclass
from enum import StrEnum


class Better(StrEnum):
    """Which values are good."""

    HIGHER = "higher"
    LOWER = "lower"
    ZERO = "near 0"


class Sound(StrEnum):
    """What a video was made with: its own sound, silence, or the sound of another clip."""

    OWN = "own"
    SILENT = "silent"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Metric:
    """One number of a clip, or of a whole set of clips."""

    name: str
    title: str
    """For people: a few words."""
    unit: str
    """frames, dB, px, ...; empty: none."""
    better: Better
    group: str
    """Heading in the report: sync, picture, mouth, steadiness, set."""
    meaning: str
    """A sentence: what it measures, on which crop, and what published numbers it is not the same as."""
    needs_reference: bool = False
    of_set: bool = False
    """One number for a whole set of clips (FID, FVD), not one a clip."""
    sound: Sound = Sound.OWN
    """Which videos it is measured on."""
