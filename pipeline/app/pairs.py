"""Which sound goes with which video, of many that were sent at once."""

from pathlib import Path


def pair_up(videos: list[str], sounds: list[str]) -> list[tuple[str, str]]:
    """By name; or one sound for all videos; or one video for all sounds. Raises ValueError with what has no partner."""
    if not videos or not sounds:
        raise ValueError(f"Add {'videos' if not videos else 'sounds'} first.")
    if len(sounds) == 1:
        return [(video, sounds[0]) for video in videos]
    if len(videos) == 1:
        return [(videos[0], sound) for sound in sounds]
    by_name = {Path(sound).stem: sound for sound in sounds}
    if len(by_name) < len(sounds):
        raise ValueError("Two sounds have the same name: name each like the video that it belongs to.")
    alone = [Path(video).name for video in videos if Path(video).stem not in by_name]
    names = {Path(video).stem for video in videos}
    alone += [Path(sound).name for sound in sounds if Path(sound).stem not in names]
    if alone:
        raise ValueError(
            f"No partner for {', '.join(alone)}: name each sound like its video, or send one sound for all videos."
        )
    return [(video, by_name[Path(video).stem]) for video in videos]
