"""Choose the source frame for each time of the 25 fps grid."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from lipforge.model.clock import FPS

T = TypeVar("T")


def to_grid(frames: Iterable[tuple[float, T]], start_frame: int, end_frame: int) -> Iterator[tuple[int, T | None]]:
    """Choose the frame that is shown at each grid time n / 25 s. Yields (n, frame).

    frames: (time in seconds, anything), in ascending order. The choice is the nearest frame that starts less than half
    a grid frame later. So frame rates above 25 are thinned without bias, and a gap repeats the frame before it instead
    of showing the next one early. Grid times before the first frame get that frame if it starts within one grid frame,
    otherwise None.
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
        if current is not None:
            yield index, current[1]
        elif following is not None and following[0] - wanted_s < 1 / FPS + tolerance_s:
            yield index, following[1]
        else:
            yield index, None
