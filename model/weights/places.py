"""Places that files of several jobs come from: see table.py."""

from lipforge.model.weights.model_file import HubFile, ZipMember

LATENTSYNC_1_6 = "ByteDance/LatentSync-1.6"
LATENTSYNC_1_6_REVISION = "c42c7e6c8e9c213626389fa7d9a3c444b8536353"
LATENTSYNC_LICENCE = "OpenRAIL++ (model card of ByteDance/LatentSync-1.6): use restrictions apply"

INSIGHTFACE_SOURCE = "InsightFace, release v0.7 of github.com/deepinsight/insightface: model pack buffalo_l"
INSIGHTFACE_LICENCE = "InsightFace: NON-COMMERCIAL RESEARCH USE ONLY"


def latentsync_file(path: str) -> HubFile:
    """A file of LatentSync 1.6's repository."""
    # Sizes and hashes of these files, of those of table_training.py, of the InsightFace release and of FID's network
    # are those that the hosts state and that independent projects pin. SyncNet v2, hyperIQA and VGG-16 are the bytes of
    # their authors.
    return HubFile(LATENTSYNC_1_6, LATENTSYNC_1_6_REVISION, path)


def buffalo_l_file(member: str) -> ZipMember:
    """A file of InsightFace's model pack."""
    return ZipMember(
        url="https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
        size_bytes=288_621_354,
        sha256="80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        member=member,
    )
