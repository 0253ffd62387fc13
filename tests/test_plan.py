"""Where a long video is cut into units, which content is new, and seams."""

import itertools

import pytest

from lipforge.model.faces.boxes import iou
from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.media.probe import VideoInfo
from lipforge.pipeline.sources.ownership import Claim, split_duplicates
from lipforge.pipeline.sources.plan import plan_units
from lipforge.pipeline.sources.seams import SeamUnit, plan_seams


def make_video(
    seconds: float, key_every_s: float = 2.0, uri: str = "/a.mp4", content: str = "a" * 64, **span: float
) -> Video:
    num_frames = round(seconds * 25)
    keys = tuple(index * key_every_s for index in range(int(seconds / key_every_s) + 1))
    info = VideoInfo(640, 480, 0, 25.0, num_frames, 0.0, keys, True, "h264", "aac")
    return Video(Source(uri, **span), content, info)


def spans(video: Video, max_span_s: float = 300.0) -> list[tuple[int, int]]:
    return [(unit.start_frame, unit.end_frame) for unit in plan_units(video, max_span_s)]


def test_a_short_video_is_one_unit() -> None:
    assert spans(make_video(300)) == [(0, 7500)]
    assert spans(make_video(450)) == [(0, 11250)]


def test_three_hours_are_cut_at_key_frames_into_even_spans_without_gaps() -> None:
    found = spans(make_video(3 * 3600, key_every_s=7.3))
    assert found[0][0] == 0 and found[-1][1] == 3 * 3600 * 25
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))
    assert all(0.5 * 7500 <= end - start <= 1.5 * 7500 for start, end in found)
    for start, _ in found[1:]:
        key = round(start / 25 / 7.3)
        assert 0 <= start - key * 7.3 * 25 < 1 + 1e-6  # the first grid frame at or after a key frame


@pytest.mark.parametrize("key_every_s", [0.02, 1 / 3, 100.0, 160.0, 1000.0, 1e9])
def test_any_spacing_of_key_frames_covers_the_video_once(key_every_s: float) -> None:
    for seconds in (0.04, 299.96, 450.04, 1234.5, 3601.0):
        found = spans(make_video(seconds, key_every_s))
        assert found[0][0] == 0 and found[-1][1] == round(seconds * 25)
        assert all(start < end for start, end in found)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(found))


def test_a_wanted_span_is_all_that_is_planned() -> None:
    assert spans(make_video(100, start_s=10.0, end_s=20.0)) == [(250, 500)]
    assert spans(make_video(100, start_s=90.0)) == [(2250, 2500)]
    assert spans(make_video(100, start_s=90.0, end_s=1e6)) == [(2250, 2500)]
    assert spans(make_video(100, start_s=200.0)) == []
    assert make_video(100, start_s=200.0).seconds_in == 0


def test_adding_to_the_end_of_the_list_changes_no_unit() -> None:
    """Unit names depend on content and time alone."""
    (unit,) = plan_units(make_video(100, uri="/x/1.mp4"), 300)
    (moved,) = plan_units(make_video(100, uri="/y/2.mp4"), 300)
    assert unit.unit_id == moved.unit_id


def test_the_first_of_equal_content_owns_it() -> None:
    one, two, other = make_video(9, uri="/1"), make_video(9, uri="/2"), make_video(9, uri="/3", content="b" * 64)
    assert split_duplicates([one, two, other], {}) == ([one, other], [], [(two, one)])


def test_what_earlier_runs_decided_stays() -> None:
    one, two = make_video(9, uri="/1"), make_video(9, uri="/2")
    claim = Claim(two.source.entry_id, two.source_id, two.first_frame, two.end_frame, 1, 0)
    assert split_duplicates([one, two], {two.source_id: [claim]}) == ([], [(one, claim)], [])
    assert split_duplicates([two], {two.source_id: [claim]}) == ([], [], [])


def test_spans_of_one_file_are_different_content_unless_they_overlap() -> None:
    first, second = make_video(60, start_s=0.0, end_s=20.0), make_video(60, start_s=20.0, end_s=40.0)
    across = make_video(60, start_s=10.0, end_s=30.0)
    assert split_duplicates([first, second], {}) == ([first, second], [], [])
    assert split_duplicates([first, second, across], {}) == ([first, second], [], [(across, first)])


FACE, ELSEWHERE = (10.0, 10.0, 110.0, 110.0), (300.0, 10.0, 400.0, 110.0)


def make_record(start: int, end: int, *open_ends: tuple[int, int, tuple]) -> dict:
    ends = [{"start_frame": first, "end_frame": last, "box": list(box)} for first, last, box in open_ends]
    return {"start_frame": start, "end_frame": end, "open_ends": ends}


@pytest.mark.parametrize(
    ("before", "after", "box", "found"),
    [
        (100, 100, FACE, [(7400, 7600)]),
        (62, 63, FACE, [(7438, 7563)]),
        (62, 62, FACE, []),  # together still too short
        (100, 100, ELSEWHERE, []),  # another face
    ],
)
def test_a_face_that_a_border_cuts_in_two_is_looked_at_again(before: int, after: int, box: tuple, found: list) -> None:
    video = make_video(600)
    records = [
        make_record(0, 7500, (7500 - before, 7500, FACE)),
        make_record(7500, 15000, (7500, 7500 + after, box)),
    ]
    seams = plan_seams(video, records, 125)
    assert [(seam.start_frame, seam.end_frame) for seam in seams] == found
    assert all(isinstance(seam, SeamUnit) and "-seam-" in seam.unit_id and seam.seen_at == 7500 for seam in seams)


def test_a_short_run_without_a_partner_across_the_border_gets_a_unit_of_its_own() -> None:
    """Its neighbour has cut what follows, or shows no face: alone it is long enough for a clip."""
    ends = [(7400, 7500, FACE), (7452, 7500, ELSEWHERE)]  # 4 s and less than 2 s
    begins = [(7500, 7550, (500.0, 10.0, 600.0, 110.0))]
    seams = plan_seams(make_video(600), [make_record(0, 7500, *ends), make_record(7500, 15000, *begins)], 50)
    found = [(seam.start_frame, seam.end_frame, seam.seen_at) for seam in seams if isinstance(seam, SeamUnit)]
    assert found == [(7400, 7500, 7499), (7500, 7550, 7500)]


def test_two_faces_that_one_border_cuts_in_two_are_two_units() -> None:
    """Two speakers in one shot across a border: the same span, but not the same face."""
    ends = [(7400, 7500, FACE), (7400, 7500, ELSEWHERE)]
    begins = [(7500, 7600, FACE), (7500, 7600, ELSEWHERE)]
    first, second = plan_seams(make_video(600), [make_record(0, 7500, *ends), make_record(7500, 15000, *begins)], 125)
    assert (first.start_frame, first.end_frame) == (second.start_frame, second.end_frame)
    assert first.unit_id != second.unit_id


def test_runs_that_do_not_touch_the_border_make_no_seam() -> None:
    records = [make_record(0, 7500, (7300, 7400, FACE)), make_record(7500, 15000, (7500, 7600, FACE))]
    assert plan_seams(make_video(600), records, 125) == []


def test_iou_of_boxes() -> None:
    assert iou(FACE, FACE) == 1.0
    assert iou(FACE, ELSEWHERE) == 0.0
    assert iou((0, 0, 2, 1), (1, 0, 3, 1)) == pytest.approx(1 / 3)
