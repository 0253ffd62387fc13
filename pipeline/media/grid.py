"""Which source frame is shown at each time of the 25 fps grid."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from lipforge.model.clock import FPS

T = TypeVar("T")


def to_grid(frames: Iterable[tuple[float, T]], start_frame: int, end_frame: int) -> Iterator[tuple[int, T | None]]:
    """Choose for each grid time n / 25 s the frame that is shown then.

    frames: (time in seconds, anything), times ascending. Chosen is the nearest of those that start less than half a grid frame
    later; so frame rates above 25 are thinned without bias, and a gap holds its last picture instead of showing the next
    one early. Grid frames before the first source frame take that one; with no frames at all they get None.
    """
    half_s = 0.5 / FPS
    tolerance_s = 1e-4
    iterator = iter(frames)
    current: tuple[float, T] | None = None
    following = next(iterator, None)
    for index in range(start_frame, end_frame):
        wanted_s = index / FPS
        while following is not None:
            later_s = following[0] - wanted_s
            if later_s >= half_s - tolerance_s:
                break
            if current is not None and later_s > abs(wanted_s - current[0]):
                break  # both are near; the earlier one is nearer
            current, following = following, next(iterator, None)
        if current is None:
            yield index, following[1] if following is not None else None
        else:
            yield index, current[1]
