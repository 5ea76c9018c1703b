"""Whether two runs of a patch write one byte, at a cost that no choice of runs can drive up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64Array = npt.NDArray[np.uint64]

_ONE = np.uint64(1)
# Pieces that the check holds in memory at once, unless the patch itself is larger than that.
_CHUNK = 1 << 20


def runs_overlap(runs: U64Array, end: U64Array) -> bool:
    """Whether two pieces share a byte.

    `runs` is (4, n), the rows offset, length, stride, count; well-formed one by one and ascending by offset.
    """
    offset = runs[0]
    reach = np.maximum.accumulate(end)
    begins = np.ones(offset.size, np.bool_)
    begins[1:] = offset[1:] >= reach[:-1]
    alone = begins.copy()
    alone[:-1] &= begins[1:]
    if alone.all():
        return False
    tangled = runs[:, ~alone]
    rest = tangled[:, ~_combs(tangled, begins.cumsum()[~alone])]
    return rest.shape[1] > 0 and _pieces_overlap(rest)


def _combs(runs: U64Array, cluster: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Per run, whether all runs of its cluster have one stride and lie apart modulo that stride.

    So lie the filters of a depthwise convolution; they cannot overlap. False says nothing. `cluster` is (n,) and
    ascends; the extents of runs of different clusters do not meet.
    """
    offset, length, stride, count = runs
    starts = np.flatnonzero(np.diff(cluster, prepend=-1))
    sizes = np.diff(starts, append=cluster.size)
    # A single piece has no stride of its own and fits any that is not shorter.
    common = np.repeat(np.maximum.reduceat(np.where(count == 1, np.uint64(0), stride), starts), sizes)
    fits = (length <= common) & ((count == 1) | (stride == common))
    tooth = offset % np.maximum(common, _ONE)
    order = np.lexsort((tooth, cluster))
    tooth = tooth[order]
    following = np.roll(tooth, -1)
    following[starts + sizes - 1] = tooth[starts] + common[starts]
    apart = tooth + length[order] <= following
    return np.repeat(np.logical_and.reduceat(fits, starts) & np.logical_and.reduceat(apart, starts), sizes)


def _pieces_overlap(runs: U64Array) -> bool:
    """Whether two pieces share a byte, by sorting them; the file is halved until the pieces of a part fit in memory."""
    limit = max(_CHUNK, 4 * runs.shape[1])
    parts = [runs]
    while parts:
        offset, length, stride, count = part = parts.pop()
        if part.shape[1] < 2:
            continue
        low, high = int(offset.min()), int((offset + (count - _ONE) * stride + length).max())
        if int(count.sum()) > limit:
            parts += _halves(part, np.uint64((low + high) // 2))
            continue
        times = count.astype(np.int64)
        number = np.arange(int(times.sum())) - np.repeat(times.cumsum() - times, times)
        start = np.repeat(offset, times) + number.astype(np.uint64) * np.repeat(stride, times)
        end = start + np.repeat(length, times)
        # Pieces are apart exactly when, starts and ends each sorted on their own, every end precedes the next start.
        start.sort()
        end.sort()
        if (end[:-1] > start[1:]).any():
            return True
    return False


def _halves(runs: U64Array, middle: np.uint64) -> tuple[U64Array, U64Array]:
    """The pieces before and from `middle`; one that reaches across it is cut in two."""
    offset, length, stride, count = runs
    distance = middle - np.minimum(offset, middle)
    before = np.minimum((distance + stride - _ONE) // stride, count)
    last = offset + (before - _ONE) * stride
    cut = (before > 0) & (last + length > middle)
    whole = before - cut
    left, over = middle - last[cut], (last + length)[cut] - middle
    one = np.ones_like(left)
    return (
        np.hstack((np.stack((offset, length, stride, whole))[:, whole > 0], np.stack((last[cut], left, left, one)))),
        np.hstack(
            (
                np.stack((offset + before * stride, length, stride, count - before))[:, before < count],
                np.stack((np.full_like(over, middle), over, over, one)),
            )
        ),
    )
