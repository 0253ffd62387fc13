"""What decoders attach to frames: how they are turned, how bright their light is."""

from typing import Any

import av
from av.sidedata.sidedata import SideDataContainer


def side_data(frame: av.VideoFrame, name: str) -> Any | None:
    """Bytes of a kind that FFmpeg knows, such as DISPLAYMATRIX; None where the frame has none.

    Not from `frame.side_data`, which the frame keeps and which keeps the frame: pictures would fill gigabytes until
    Python looks for such circles.
    """
    container: Any = SideDataContainer
    return container(frame).get(name)
