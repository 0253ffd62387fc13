"""Show HDR pictures on the scale of SDR."""

import av

_TRANSFERS = {16: "pq", 18: "hlg"}  # ITU-T H.273: SMPTE ST 2084, ARIB STD-B67


def transfer_of(frame: av.VideoFrame) -> str:
    """How the values of a frame mean light: sdr, pq or hlg."""
    return _TRANSFERS.get(int(frame.color_trc), "sdr")
