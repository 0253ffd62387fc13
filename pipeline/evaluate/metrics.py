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
    AS_ORIGINAL = "as the original's"
    """By itself, no value is better."""


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


def _metrics() -> tuple[Metric, ...]:
    sync, picture, mouth, steady, whole = "sync", "picture", "mouth", "steadiness", "set"
    lower, higher, zero, as_original = Better.LOWER, Better.HIGHER, Better.ZERO, Better.AS_ORIGINAL
    crop = "On the aligned crop at 256 px; numbers on other crops are not the same."
    part = "On the mouth's part of the aligned crop at 256 px (rows 112 to 239, columns 64 to 191)."
    return (
        Metric(
            "sync_confidence",
            "sync confidence, built-in",
            "",
            higher,
            sync,
            "How surely the lips speak the sound, by the built-in scorer: chance reads below 2.2, natural speech "
            "above. Not on SyncNet's scale.",
        ),
        Metric(
            "sync_offset_frames",
            "sync offset, built-in",
            "frames",
            zero,
            sync,
            "Shift at 25 fps at which lips and sound fit best, by the built-in scorer; positive: the sound is early. "
            "Real clips have offsets of their own. Where sync confidence is at chance, the offset is a guess.",
        ),
        Metric(
            "syncnet_v2_confidence",
            "LSE-C, SyncNet v2",
            "",
            higher,
            sync,
            "SyncNet v2's confidence, median minus least distance over shifts of 15 frames, on the crop that its "
            "authors' code cuts, from boxes of other face models widened to those of S3FD: close to published LSE-C, "
            "not equal.",
        ),
        Metric(
            "syncnet_v2_distance",
            "LSE-D, SyncNet v2",
            "",
            lower,
            sync,
            "SyncNet v2's least distance between lips and sound, on the same crop: close to published LSE-D, not "
            "equal.",
        ),
        Metric(
            "syncnet_v2_offset_frames",
            "sync offset, SyncNet v2",
            "frames",
            zero,
            sync,
            "Shift at 25 fps of the least distance; positive: the sound is early.",
        ),
        Metric(
            "shift_error_frames",
            "planted shifts",
            "frames",
            lower,
            sync,
            "The sound is moved by 1 to 5 frames either way: mean difference between that and how far the built-in "
            "scorer's offset follows. Near 0: the offset above is measured, not guessed; not that it is right.",
        ),
        Metric(
            "foreign_sync_confidence",
            "sync with a foreign sound",
            "",
            higher,
            sync,
            "Sync confidence of videos that were made with another clip's sound: as high as with their own, where the "
            "mouth follows what it hears.",
            sound=Sound.FOREIGN,
        ),
        *(
            one
            for suffix, words, where in (("", "", crop), ("_mouth", ", mouth", part))
            for one in (
                Metric(
                    f"lpips{suffix}",
                    f"LPIPS{words}",
                    "",
                    lower,
                    picture,
                    f"LPIPS 0.1 on VGG-16 to the reference, mean over 50 frames. {where}",
                    needs_reference=True,
                ),
                Metric(
                    f"st_lpips{suffix}",
                    f"ST-LPIPS{words}",
                    "",
                    lower,
                    picture,
                    "Shift-tolerant LPIPS (Ghildyal and Liu 2022) on AlexNet to the reference, mean over 50 frames; "
                    f"not LPIPS 0.1. {where}",
                    needs_reference=True,
                ),
                Metric(
                    f"ssim{suffix}",
                    f"SSIM{words}",
                    "",
                    higher,
                    picture,
                    f"Structural similarity to the reference (Gaussian window, 1.5 px), mean over 50 frames. {where}",
                    needs_reference=True,
                ),
                Metric(
                    f"psnr_db{suffix}",
                    f"PSNR{words}",
                    "dB",
                    higher,
                    picture,
                    f"Peak signal-to-noise ratio to the reference, mean over 50 frames, at most 100. {where}",
                    needs_reference=True,
                ),
            )
        ),
        Metric(
            "csim",
            "CSIM",
            "",
            higher,
            picture,
            "Cosine between the identity vectors of video and reference, by ArcFace, mean over 50 frames.",
            needs_reference=True,
        ),
        Metric(
            "lip_distance_px",
            "lip distance",
            "px",
            lower,
            mouth,
            "Mean distance of 40 FaceMesh points of the lips to the reference's, frame by frame, upper faces laid on "
            "each other; pixels of the aligned crop at 256 px height. Not the LMD of other landmarks.",
            needs_reference=True,
        ),
        Metric(
            "mouth_opening",
            "opening",
            "",
            as_original,
            mouth,
            "Gap of the inner lips over the height of the face, mean over frames.",
        ),
        Metric(
            "mouth_movement",
            "movement",
            "",
            as_original,
            mouth,
            "How much that opening moves faster than once a second: standard deviation over frames.",
        ),
        Metric(
            "silent_opening",
            "opening in silence",
            "",
            lower,
            mouth,
            "Opening of videos that were made with silence, over that of the originals (without one, of the same "
            "videos with their own sound): 1 where the mouth stays as open.",
            sound=Sound.SILENT,
        ),
        Metric(
            "silent_movement",
            "movement in silence",
            "",
            lower,
            mouth,
            "Movement of videos that were made with silence, over that of the originals (without a reference, of the "
            "same videos with their own sound): 0 where the mouth is still, 1 where it goes on talking.",
            sound=Sound.SILENT,
        ),
        Metric(
            "leak",
            "old mouth left",
            "",
            zero,
            mouth,
            "Of videos that were made with a foreign sound: share of the original mouth's movement that is left in the "
            "new one, beyond what unrelated mouths share. 0: none, 1: copied.",
            needs_reference=True,
            sound=Sound.FOREIGN,
        ),
        Metric(
            "identity_drift",
            "identity drift",
            "",
            lower,
            steady,
            "How far the face leaves that of the clip's first second: largest fall of ArcFace's cosine over seconds.",
        ),
        Metric(
            "jitter",
            "jitter",
            "px/frame²",
            as_original,
            steady,
            "Mean second difference over time of lip and chin points, head held still, in pixels of the aligned crop. "
            "Speech moves them, too: compare with the reference's.",
        ),
        Metric(
            "jitter_excess",
            "jitter beyond the reference's",
            "px/frame²",
            zero,
            steady,
            "Jitter minus that of the reference: above 0 the mouth shakes, below it is smoother than real.",
            needs_reference=True,
        ),
        Metric(
            "frames_error",
            "frames too many or few",
            "frames",
            zero,
            steady,
            "Number of pictures in the file, minus the reference's.",
            needs_reference=True,
        ),
        Metric(
            "length_error_s",
            "length error",
            "s",
            zero,
            steady,
            "Length of the picture, minus the reference's.",
            needs_reference=True,
        ),
        Metric(
            "fid",
            "FID",
            "",
            lower,
            whole,
            "Fréchet distance of Inception features between all videos and all references, 5 frames a second of the "
            "aligned crop. No interval; a few thousand frames are needed, and only equal numbers of frames compare.",
            needs_reference=True,
            of_set=True,
        ),
        Metric(
            "fvd",
            "FVD",
            "",
            lower,
            whole,
            "Fréchet distance of I3D features between all videos and all references, of windows of 16 frames at "
            "25 fps, one after the other, of the aligned crop. No interval; only equal numbers of windows compare.",
            needs_reference=True,
            of_set=True,
        ),
    )


METRICS: dict[str, Metric] = {metric.name: metric for metric in _metrics()}
"""By name, in the order of the report."""
