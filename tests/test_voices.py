"""Speakers from voices: what is one voice, which name it gets, and that neither order nor growth changes a name."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from lipforge.pipeline.publish import linkage as our_linkage
from lipforge.pipeline.publish.linkage import average_linkage
from lipforge.pipeline.publish.voices import NO_VOICES, Assigned, SourceClips, assign

ALIKE = 0.93
"""Cosine of two clips of one made speaker."""


def clip_voice(speaker: int, clip: int) -> np.ndarray:
    """float16 [256]: strangers have a cosine of 0.36, clips of one speaker one of 0.93."""
    own, common = np.random.default_rng([speaker, 1]).normal(size=256), np.random.default_rng(0).normal(size=256)
    noise = np.random.default_rng([speaker, clip, 2]).normal(size=256)
    parts = zip((common, own, noise), (0.36, 0.57, 0.07), strict=True)
    voice = sum(part / np.linalg.norm(part) * np.sqrt(share) for part, share in parts)
    return (voice / np.linalg.norm(voice)).astype(np.float16)


def source(number: int, *speakers: int, label: str | None = None, tracks: list[int] | None = None) -> SourceClips:
    """One clip of 4 s of each of these speakers, each in a track of its own."""
    clips = range(len(speakers))
    return SourceClips(
        clip_ids=[f"{number:03d}{clip:03d}" for clip in clips],
        embeddings=np.stack([clip_voice(speaker, number * 50 + clip) for clip, speaker in enumerate(speakers)]),
        tracks=tracks or list(clips),
        seconds=[4.0] * len(speakers),
        labels=[label] * len(speakers),
    )


def names(found: Assigned) -> list[list[str | None]]:
    return [[found.voices.names[row] if row >= 0 else None for row in rows.tolist()] for rows in found.of_clips]


def test_each_speaker_has_one_voice_across_sources_and_no_one_else_has_it() -> None:
    speakers = [(1, 2, 1), (2, 3), (1,), (4, 4)]
    found = assign([source(number, *some) for number, some in enumerate(speakers)])
    by_speaker = {
        (speaker, name)
        for some, given in zip(speakers, names(found), strict=True)
        for speaker, name in zip(some, given, strict=True)
    }
    assert len(by_speaker) == len({name for _, name in by_speaker}) == 4
    assert found.voices.names == tuple(sorted(name for _, name in by_speaker if name))
    assert all(name.startswith("voice-") and len(name) == 22 for name in found.voices.names)
    assert found.voices.seconds.sum() == 8 * 4


def test_order_changes_nothing() -> None:
    draws = np.random.default_rng(5)
    sources = [source(number, *draws.integers(0, 9, 6).tolist()) for number in range(12)]
    found = assign(sources)
    shuffled = []
    for one in reversed(sources):
        order = draws.permutation(6)
        shuffled.append(
            SourceClips(
                clip_ids=[one.clip_ids[row] for row in order],
                embeddings=one.embeddings[order],
                tracks=[one.tracks[row] for row in order],
                seconds=[one.seconds[row] for row in order],
                labels=[one.labels[row] for row in order],
            )
        )
    again = assign(shuffled)

    def by_clip(given: list[SourceClips], result: Assigned) -> dict[str, str | None]:
        pairs = zip(given, names(result), strict=True)
        return {key: name for one, some in pairs for key, name in zip(one.clip_ids, some, strict=True)}

    assert by_clip(shuffled, again) == by_clip(sources, found)
    assert again.voices.names == found.voices.names
    assert (again.voices.vectors == found.voices.vectors).all()


def test_names_stay_when_sources_are_added() -> None:
    first = assign([source(5, 1, 2), source(6, 2)])
    known = first.voices
    second = assign([source(1, 2, 3), source(2, 1)], known)  # smaller clip ids would give other names
    (two, three), (one,) = names(second)
    assert [[one, two], [two]] == names(first)
    assert three not in known.names
    assert set(known.names) < set(second.voices.names)
    heard_s = dict(zip(second.voices.names, second.voices.seconds, strict=True))
    assert heard_s[two] == 12
    assert assign([], known).voices.names == known.names


def test_known_voices_stay_apart_even_if_they_sound_alike() -> None:
    known = assign([source(1, 1)]).voices
    twins = replace(
        known,
        names=("voice-a", "voice-b"),
        vectors=np.repeat(known.vectors, 2, axis=0),
        seconds=np.repeat(known.seconds, 2),
    )
    assert names(assign([source(2, 1)], twins)) == [["voice-a"]]
    assert assign([source(2, 1)], twins).voices.names == ("voice-a", "voice-b")


def test_a_label_wins_and_clips_without_one_take_it() -> None:
    labelled = source(1, 1, 1, label="Ann")
    found = assign([labelled, source(2, 1, 2), source(3, 1, label="Anna"), source(4, 3, label="Bo")])
    given = names(found)
    assert given[0] == ["Ann", "Ann"]
    assert given[1][0] in ("Ann", "Anna")
    assert given[1][1].startswith("voice-")
    assert given[2:] == [["Anna"], ["Bo"]]
    later = assign([source(5, 3), source(6, 1, label="Ann")], found.voices)
    assert names(later) == [["Bo"], ["Ann"]]


def test_a_track_is_one_person_whatever_it_sounds_like() -> None:
    apart = assign([source(1, 1, 2)])
    together = assign([source(1, 1, 2, tracks=[7, 7])])
    assert len(apart.voices.names) == 2
    assert len(together.voices.names) == 1


def test_silence_takes_the_name_of_its_track_and_otherwise_none() -> None:
    one = source(1, 1, 1, 2, tracks=[0, 0, 1])
    one.embeddings[[1, 2]] = 0
    ((heard, silent, alone),) = names(assign([one]))
    assert heard == silent
    assert alone is None
    assert names(assign([replace(source(1, 1, 1, 2, tracks=[0, 0, 1]), seconds=[4.0, 0.0, 0.0])])) == [
        [heard, heard, None]
    ]
    labelled = source(1, 1, label="Ann")
    labelled.embeddings[:] = 0
    assert names(assign([labelled, source(2, 2)]))[0] == ["Ann"]


def test_the_threshold_decides() -> None:
    sources = [source(1, 1), source(2, 1)]
    counts = [len(assign(sources, same_voice=least).voices.names) for least in (0.5, 0.99)]
    assert counts == [1, 2]


def test_short_and_long_sound_are_compared_by_one_threshold() -> None:
    """A cosine of two voices of 60 s has to be larger than one of two voices of 2 s to mean the same."""

    def count(seconds: float) -> int:
        some = [replace(source(number, 1), seconds=[seconds]) for number in (1, 2)]
        return len(assign(some, same_voice=0.75).voices.names)

    assert (count(2), count(60)) == (1, 2)
    assert ALIKE * 0.75 < 0.75 < ALIKE * 0.875


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": [4.0, -1.0]}, "seconds of 0 or more"),
        ({"labels": [None]}, "of 2 clips"),
        ({"embeddings": np.full((2, 256), np.nan, np.float32)}, "finite embeddings"),
        ({"embeddings": np.ones((2, 8), np.float32)}, r"\[2, 256\]"),
    ],
)
def test_wrong_input_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        assign([replace(source(1, 1, 2), **changes)], NO_VOICES)


def clustered_vectors() -> np.ndarray:
    draws = np.random.default_rng(8)
    vectors = draws.normal(size=(40, 12))[draws.integers(0, 40, 300)] + 0.6 * draws.normal(size=(300, 12))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("least", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("block_numbers", [1 << 24, 700])
def test_clusters_are_those_of_scipy(least: float, block_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(our_linkage, "_BLOCK_NUMBERS", block_numbers)
    vectors = clustered_vectors()
    ours = average_linkage(vectors, np.ones(len(vectors)), 0, least)
    theirs = fcluster(linkage(vectors, "average", metric="cosine"), 1 - least, "distance")
    assert len(set(zip(ours.tolist(), theirs.tolist(), strict=True))) == len(set(ours.tolist())) == len(set(theirs))
    assert all(ours[cluster] == cluster for cluster in set(ours.tolist()))
    assert 1 < len(set(ours.tolist())) < 300


def test_weights_count_as_that_many_equal_vectors() -> None:
    vectors = clustered_vectors()
    weights = np.random.default_rng(9).integers(1, 4, len(vectors))
    once = average_linkage(vectors, weights, 0, 0.5)
    each = np.repeat(np.arange(len(vectors)), weights)
    repeated = average_linkage(vectors[each], np.ones(len(each)), 0, 0.5)
    assert len(set(zip(once[each].tolist(), repeated.tolist(), strict=True))) == len(set(once.tolist()))


def test_equal_vectors_end_in_one_cluster() -> None:
    vectors = np.repeat(clustered_vectors()[:1], 33, axis=0)
    assert set(average_linkage(vectors, np.ones(33), 0, 0.9).tolist()) == {0}
