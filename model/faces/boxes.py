"""How much two face boxes overlap. A box is x0, y0, x1, y1 in pixels."""

Box = tuple[float, float, float, float]

SAME_FACE_IOU = 0.35
"""Boxes of one face in neighbouring frames overlap at least this much."""


def intersection(a: Box, b: Box) -> float:
    """Shared area in square pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def area(box: Box) -> float:
    """In square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a: Box, b: Box) -> float:
    """Intersection over union, 0..1."""
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return shared / union if union > 0 else 0.0


def overlap_of_smaller(a: Box, b: Box) -> float:
    """Intersection over the smaller area, 0..1: also 1 for a small box inside a large one."""
    shared = intersection(a, b)
    return shared / min(area(a), area(b)) if shared > 0 else 0.0
