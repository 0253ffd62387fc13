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
    return f"""# Results of the built-in lip-sync scorer

Made by `make sync-results CLIPS=FOLDER`; do not edit. The scorer is `{evidence.scorer.model.name}` with the default
threshold of {evidence.scorer.min_confidence:g}. [lip_sync.md](lip_sync.md) says how it works and what it was trained
on. The formula of the confidence and the default threshold were chosen on these clips, so their figures are slightly
optimistic; the networks never saw them.

{len(files)} real videos went in. The promise covers {len(clean)} of them ("clean"), each of another speaker: natural
audio, one speaker, eyes at least {MIN_EYES_PX} px apart, head turned by at most {MAX_YAW_DEG} degrees, and not used in
training. Training may have used {open_to_training} others, which appear only in the list of every video, marked. The
rest is in sections of its own."""


def method_section(evidence: Evidence) -> str:
    return """## How it was measured

- Faces are detected and followed by the code of `lipforge prepare`, with wider limits (clips from 2 s, faces from
  30 px). Audio is read from the source with a margin, so that shifts bring in real audio and not zeros.
- Windows overlap by half. A mismatch pairs the lips of a window with the audio of another speaker's window. Audio of
  the same speaker is taken from beyond the reach of any shift.
- Intervals are percentile bootstraps over speakers, the largest source of chance. With so few speakers they are rough:
  an interval of one point only says that every speaker drawn had the same result.
- Each file counts as one speaker. Reference offsets are those of clips.csv; shifts are planted in the samples."""
