"""Talking clips whose pictures are stored otherwise than they are shown, through the whole of `prepare`."""

from pathlib import Path
from typing import Any

import av
import pytest

from lipforge.datasets_manifest.manifest import read_manifest
from tests.conftest import run_prepare
from tests.odd_pictures import ONE, X264, convert, interlace

Rows = dict[str, list[dict[str, Any]]]
SIZE_PX = 384


@pytest.fixture(scope="module")
def rows(talking_clip: Path, models: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Manifest rows by the name of the file."""
    folder, scratch = tmp_path_factory.mktemp("odd"), tmp_path_factory.mktemp("scratch")
    upside_down = convert(talking_clip, scratch / "flipped.mp4", "-vf", "vflip", *X264, "-c:a", "copy")
    _with_matrix(upside_down, folder / "mirrored.mov")
    squeezed = ("-vf", "scale=192:384,setsar=2", *X264, "-c:a", "copy")
    convert(talking_clip, folder / "squeezed.mp4", *squeezed)
    fields = convert(talking_clip, scratch / "fields.mkv", "-vf", "fps=50", *X264, "-c:a", "copy")
    interlace(fields, folder / "interlaced.mkv", False, (*X264, "-c:a", "copy"))
    hdr = (
        "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709,zscale=t=linear:npl=203,format=gbrpf32le,"
        "zscale=p=bt2020:t=smpte2084:m=2020_ncl:npl=203,format=yuv420p10le"
    )
    tags = ("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc")
    x265 = ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "14", "-x265-params", "log-level=none:pools=1")
    convert(talking_clip, folder / "hdr.mp4", "-vf", hdr, *tags, *x265, "-c:a", "copy")
    run_prepare([str(folder), str(talking_clip)], folder.parent / "odd_dataset")
    found: Rows = {}
    for row in read_manifest(str(folder.parent / "odd_dataset")).to_pylist():
        found.setdefault(Path(row["source_uri"]).stem, []).append(row)
    return found


def _with_matrix(source: Path, path: Path) -> None:
    """Says that the picture is stored upside down."""
    with av.open(str(source)) as original, av.open(str(path), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in original.streams}
        copies[0].set_display_matrix([ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30])
        for packet in original.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)


@pytest.mark.parametrize("name", ["mirrored", "squeezed", "interlaced", "hdr"])
def test_what_is_shown_is_measured_like_the_plain_clip(rows: Rows, name: str) -> None:
    (plain,), (odd,) = rows["base"], rows[name]
    assert plain["status"] == odd["status"] == "kept"
    assert odd["av_offset_frames"] == plain["av_offset_frames"]
    assert odd["sync_confidence"] == pytest.approx(plain["sync_confidence"], abs=0.6)
    assert odd["face_size_px"] == pytest.approx(plain["face_size_px"], rel=0.03)
    assert odd["quality"] == pytest.approx(plain["quality"], abs=10)
    assert (odd["source_width_px"], odd["source_height_px"]) == (SIZE_PX, SIZE_PX)
    assert odd["source_transfer"] == ("pq" if name == "hdr" else "sdr")
    assert odd["detail"] is None
