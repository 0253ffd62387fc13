"""Votes of clips for the language of their source, and who wins."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa

from lipforge.datasets_manifest.arrow import compute as pc
from lipforge.datasets_manifest.language_tags import stored_language
from lipforge.pipeline.publish.rows import UNLABELLED, Spoken

MIN_SPEECH_RATIO = 0.2
"""Share of speech that a clip needs to vote. Not the dataset's threshold, because that may change."""

VOTE_COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("language", pa.string()),  # null: the clip's media was pruned
        ("probability", pa.float64()),
        ("whisper", pa.string()),
        ("sha256", pa.string()),  # of the checkpoint
    ]
)

Vote = tuple[str, float] | None
"""Language and its probability; None of a clip without media."""


def voters(rows: pa.Table) -> dict[int, list[str]]:
    """Keys of the clips that vote, kept or not, by content: measured ones with speech. rows: SEALED_COLUMNS."""
    speaks = pc.and_(rows["quality"].is_valid(), pc.greater_equal(rows["speech_ratio"], MIN_SPEECH_RATIO))
    here = rows.filter(pc.and_(speaks, pc.equal(rows["language_source"], UNLABELLED)))
    found: defaultdict[int, list[str]] = defaultdict(list)
    for content, key in zip(here["content"].to_pylist(), here["key"].to_pylist(), strict=True):
        found[content].append(key)
    return dict(found)


def spoken_by_content(rows: pa.Table, votes: pa.Table | None) -> dict[int, Spoken]:
    """The language of each content all of whose voters voted, with the same checkpoint. votes: VOTE_COLUMNS."""
    if votes is None:
        return {}
    by_key = {row["key"]: row for row in votes.to_pylist()}
    found = {}
    for content, keys in voters(rows).items():
        own = [by_key[key] for key in keys if key in by_key]
        if len(own) < len(keys) or len({row["sha256"] for row in own}) != 1:
            continue  # another checkpoint is half done: its votes and the old ones do not mix
        cast = [(row["language"], row["probability"]) for row in own if row["language"] is not None]
        if (spoken := majority(cast, own[0]["whisper"])) is not None:
            found[content] = spoken
    return found


def majority(votes: Sequence[tuple[str, float]], whisper: str) -> Spoken | None:
    """Each clip votes for its most likely language, with that language's probability.

    The winner's probability is the sum of its votes over the number of clips: 1 only if every clip was certain.
    None without votes.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for language, probability in votes:
        sums[stored_language(language)] += probability  # not all of Whisper's codes are BCP 47: jw, Javanese
    if not sums:
        return None
    winner = min(sums, key=lambda language: (-sums[language], language))
    return Spoken(winner, sums[winner] / len(votes), whisper)


def with_votes(before: pa.Table | None, votes: Mapping[str, Vote], whisper: str, sha256: str) -> pa.Table:
    """A segment's table of votes with these added; they replace earlier ones of the same clips."""
    rows = [] if before is None else [row for row in before.to_pylist() if row["key"] not in votes]
    for key, vote in votes.items():
        language, probability = vote or (None, None)
        rows.append(
            {"key": key, "language": language, "probability": probability, "whisper": whisper, "sha256": sha256}
        )
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["key"]), VOTE_COLUMNS)
