"""Videos for the benchmarks: real clips from beside the repository, or else a synthetic one."""

import sys
from pathlib import Path

from lipforge.model.clock import FPS
from lipforge.pipeline.clip import Source, Video
from lipforge.pipeline.stages.probe import Probe

REAL_CLIPS = Path(__file__).parents[2] / "shared" / "data" / "clips"
MIN_CLIP_S = 5.0


def find_videos(folder: Path | None, num_clips: int, scratch: Path) -> list[Video]:
    """Videos of at least 5 s with audio, spread evenly over the frame sizes in a folder; or one synthetic video."""
    folder = folder or (REAL_CLIPS if REAL_CLIPS.is_dir() else None)
    paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder else [talking_photo(scratch, 12)]
    videos = [Probe().process(Source(str(path))) for path in paths if path.suffix != ".csv"]
    usable = [
        v for v in videos if v.reason is None and v.info and not v.info.rotation_deg and v.seconds_in >= MIN_CLIP_S
    ]
    if not usable:
        sys.exit(f"no usable videos in {folder}")
    usable.sort(key=num_pixels)
    step = max(1.0, (len(usable) - 1) / max(1, num_clips - 1))
    chosen = sorted({min(round(index * step), len(usable) - 1) for index in range(num_clips)})
    return [usable[index] for index in chosen]


def num_pixels(video: Video) -> int:
    assert video.info is not None
    return video.info.width_px * video.info.height_px


def talking_photo(scratch: Path, duration_s: float) -> Path:
    from tests.talking_photo import make_talking_photo

    path = scratch / f"talking-{duration_s:g}.mp4"
    if not path.exists():
        make_talking_photo(path, duration_s)
    return path


def name_of(video: Video) -> str:
    assert video.info is not None
    info = video.info
    fps = f"{info.mean_fps:g} fps" if abs(info.mean_fps - FPS) > 0.01 else "25 fps"
    size = f"{info.width_px} x {info.height_px}"
    return f"{Path(video.source.uri).name}: {size}, {fps}, {info.video_codec}, {video.seconds_in:.1f} s"
