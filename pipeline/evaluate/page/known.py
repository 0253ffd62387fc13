"""Metrics by name."""

from lipforge.pipeline.evaluate.metrics import Better, Metric, Sound

# stand-ins until the judge's METRICS are here
_H, _L, _Z = Better.HIGHER, Better.LOWER, Better.ZERO
METRICS = {
    m.name: m
    for m in [
        Metric("sync_confidence", "Sync confidence", "", _H, "sync", "How sure the built-in scorer is that lips and sound belong together, on the aligned crop. Not the numbers of SyncNet."),
        Metric("sync_offset_frames", "Sync offset", "frames", _Z, "sync", "By how many frames at 25 fps the sound is early."),
        Metric("syncnet_v2_confidence", "SyncNet v2 confidence", "", _H, "sync", "Sync-C as published."),
        Metric("syncnet_v2_distance", "SyncNet v2 distance", "", _L, "sync", "Sync-D as published."),
        Metric("syncnet_v2_offset_frames", "SyncNet v2 offset", "frames", _Z, "sync", "Offset as published."),
        Metric("shift_error_frames", "Error of planted shifts", "frames", _L, "sync", "Own sound moved by planted shifts: mean distance of what was found."),
        Metric("lpips", "LPIPS", "", _L, "picture", "Perceptual distance to the reference on the aligned crop.", True),
        Metric("lpips_mouth", "LPIPS, mouth", "", _L, "picture", "The same on the mouth.", True),
        Metric("st_lpips", "ST-LPIPS", "", _L, "picture", "Shift-tolerant perceptual distance. Not LPIPS 0.1.", True),
        Metric("st_lpips_mouth", "ST-LPIPS, mouth", "", _L, "picture", "The same on the mouth.", True),
        Metric("ssim", "SSIM", "", _H, "picture", "Structural similarity to the reference.", True),
        Metric("ssim_mouth", "SSIM, mouth", "", _H, "picture", "The same on the mouth.", True),
        Metric("psnr_db", "PSNR", "dB", _H, "picture", "Peak signal-to-noise ratio.", True),
        Metric("psnr_db_mouth", "PSNR, mouth", "dB", _H, "picture", "The same on the mouth.", True),
        Metric("lip_distance_px", "Distance of lip points", "px", _L, "mouth", "Mean distance of the lips' points in a crop of 256 px.", True),
        Metric("mouth_opening", "Mouth opening", "", _H, "mouth", "Opening of the inner lips by the height of the face."),
        Metric("silent_opening", "Mouth opening on silence", "", _L, "mouth", "Opening where the sound is silent.", sound=Sound.SILENT),
        Metric("leak", "Old mouth left", "", _L, "mouth", "Share of the old mouth that is left with foreign sound: 0 none, 1 copied.", sound=Sound.FOREIGN),
        Metric("foreign_sync_confidence", "Sync confidence, foreign sound", "", _H, "sync", "The same on videos made with another clip's sound.", sound=Sound.FOREIGN),
        Metric("csim", "CSIM", "", _H, "steadiness", "Cosine of ArcFace embeddings.", True),
        Metric("identity_drift", "Identity drift", "", _L, "steadiness", "How far identity moves from start to end."),
        Metric("jitter", "Jitter", "px", _L, "steadiness", "Second difference of lip points."),
        Metric("frames_error", "Frame count error", "frames", _L, "steadiness", "Frames too many or too few.", True),
        Metric("length_error_s", "Length error", "s", _L, "steadiness", "Seconds too many or too few.", True),
        Metric("fid", "FID", "", _L, "set", "Frechet distance of Inception features.", True, True),
        Metric("fvd", "FVD", "", _L, "set", "Frechet distance of I3D features, windows of 16 frames.", True, True),
    ]
}


def metric_named(name: str) -> Metric:
    """Reports of other versions may hold metrics that this one does not know."""
    return METRICS.get(name) or Metric(name, name, "", Better.HIGHER, "other", "")
