"""The lip-sync results page. Every number in it comes from the evidence it is given."""

from pathlib import Path

from benchmarks.lip_sync.clips import CLEAN, MAX_YAW_DEG, MIN_EYES_PX
from benchmarks.lip_sync.evidence import Evidence
from benchmarks.lip_sync.page_cases import changes_section, faces_section, others_section, several_section
from benchmarks.lip_sync.page_prepare import engine_section, speed_section
from benchmarks.lip_sync.page_scores import (
    chance_section,
    lengths_section,
    people_section,
    promise_section,
    thresholds_section,
)


def write_page(evidence: Evidence, out: Path) -> None:
    folder = out.with_suffix("").name
    sections = [
        head_section(evidence),
        promise_section(evidence),
        lengths_section(evidence),
        people_section(evidence),
        thresholds_section(evidence, folder),
        chance_section(evidence, folder),
        faces_section(evidence),
        changes_section(evidence),
        *([several_section(evidence, folder)] if evidence.turns else []),
        others_section(evidence),
        engine_section(evidence, folder),
        speed_section(evidence),
        method_section(evidence),
    ]
    out.write_text("\n\n".join(sections) + "\n")


def head_section(evidence: Evidence) -> str:
    files = {track.file for track in evidence.kinds} | set(evidence.unusable)
    clean = {track.file for track, kind in evidence.kinds.items() if kind == CLEAN}
    open_to_training = sum(
        track.about["trainable"] == "yes" for track in {track.file: track for track in evidence.kinds}.values()
    )
    return f"""# What the built-in lip-sync scorer is worth

Made by `make sync-results CLIPS=FOLDER`; do not edit. The scorer is `{evidence.judge.model.name}` with the default threshold of
{evidence.judge.min_confidence:g}. [lip_sync.md](lip_sync.md) says how it works and what it was trained on. The shape of the confidence and the default
threshold were chosen with these clips in view, so what the page says of them is optimistic in the last digits; the networks never saw them.

{len(files)} real videos went in. {len(clean)} of them, each of another person, are what the promise is about ("clean"): natural sound, one person
who speaks, eyes at least {MIN_EYES_PX} px apart, head turned by at most {MAX_YAW_DEG} degrees, and never seen by training. Training may have
used {open_to_training} others; they are only in the list of every video, and marked. The rest is below too, under what it is."""


def method_section(evidence: Evidence) -> str:
    return """## How it was measured

- Faces are found and followed by the same code as in `lipforge prepare`, with wider limits (clips from 2 s, faces from 30 px). The sound is
  read again from the source with a margin, so that shifts bring in real sound and not zeros.
- Windows overlap by half. A mismatch is a window's picture with the sound of a window of another person; the same person's other time begins
  so late that no tried shift reaches the window's own sound.
- Intervals are percentile bootstraps over people, the largest source of chance; with so few people they are rough, and an interval of
  one point only says that every person drawn had the same result.
- Each file is taken for one person. Reference offsets are those of clips.csv; shifts are planted in the samples."""
