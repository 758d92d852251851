"""The compiled loops of the metrics. They see scores as order-preserving integers ("keys"), never as floats.

The bits of a float, read as a signed integer b, order like the float where b >= 0; where b < 0 minus the magnitude bits
does. Both zeros get key 0. So keys compare exactly as the scores do, and their differences can index a table.

Compiled machine code is kept beside this file, or in the user's cache folder where that is read-only (numba's own rule;
NUMBA_CACHE_DIR names another place). Where neither can be written, each process compiles again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

BLOCK = 512  # pixels; the block's bin numbers stay in the fastest cache
STRIDE = 128  # pixels of a mask that are skipped together when none is anomalous


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with a cache on disk, or without one where no folder can hold it."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba's "no locator available"
        return numba.njit(nogil=True)(function)


@compiled
def next_anomalous(row, x):
    """Position of the first anomalous pixel of a mask's row from x on, or the row's length."""
    while x + STRIDE <= row.size:
        found = row[x]
        for offset in range(STRIDE):  # many at a time: this loop has no branch
            found |= row[x + offset]
        if found:
            break
        x += STRIDE
    while x < row.size and not row[x]:
        x += 1
    return x


@compiled
def find_regions(mask, begin, end, parent, areas):
    """8-connected regions of a mask, by union-find over its horizontal runs.

    mask (H, W) bool. Writes flat positions of each run's first pixel (`begin`) and of the one behind its last
    (`end`), its region (`parent`, numbered from 0) and each region's number of pixels (`areas`). Returns (runs,
    regions).

    Two runs in neighbouring rows touch, corners included, when neither ends left of where the other begins.
    """
    height, width = mask.shape
    runs = 0
    above = 0  # first run of the row above that can touch what comes next
    for y in range(height):
        first = runs
        x = next_anomalous(mask[y], 0)
        while x < width:
            begin[runs] = y * width + x
            while x < width and mask[y, x]:
                x += 1
            end[runs] = y * width + x
            parent[runs] = runs
            while above < first and end[above] + width < begin[runs]:
                above += 1
            other = above
            while other < first and begin[other] + width <= end[runs]:
                a = other
                while parent[a] != a:
                    parent[a] = parent[parent[a]]
                    a = parent[a]
                b = runs
                while parent[b] != b:
                    parent[b] = parent[parent[b]]
                    b = parent[b]
                parent[max(a, b)] = min(a, b)
                other += 1
            runs += 1
            x = next_anomalous(mask[y], x)
        above = first
    regions = 0
    for run in range(runs):  # a parent never comes after its child, so one pass settles every run
        if parent[run] == run:
            parent[run] = regions
            areas[regions] = 0
            regions += 1
        else:
            parent[run] = parent[parent[run]]
        areas[parent[run]] += end[run] - begin[run]
    return runs, regions


@compiled
def find_anomalous(bits, masks, magnitude, keys, regions, areas, extremes, anomalous, pixels, seen):
    """Key and region of every anomalous pixel of some images, in reading order.

    bits (N, H, W) signed integers, masks (N, H, W) bool. Writes keys and regions from position `pixels` on and regions'
    sizes (`areas`) from `seen` on, each image's lowest and highest key, extremes (N, 2), and which images have
    anomalous pixels, anomalous (N,). Returns where to go on, (pixels, seen).
    """
    images, height, width = masks.shape
    begin, end, parent = np.empty((3, height * (width + 1) // 2), np.int32)
    for image in range(images):
        runs, found = find_regions(masks[image], begin, end, parent, areas[seen:])
        plane = bits[image].ravel()
        lowest, highest = magnitude, bits.dtype.type(-magnitude)
        for position in range(plane.size):
            b = plane[position]
            key = bits.dtype.type(b if b >= 0 else -(b & magnitude))
            lowest, highest = min(lowest, key), max(highest, key)
        extremes[image, 0], extremes[image, 1] = lowest, highest
        for run in range(runs):
            for position in range(begin[run], end[run]):
                b = plane[position]
                keys[pixels] = b if b >= 0 else -(b & magnitude)
                regions[pixels] = seen + parent[run]
                pixels += 1
        anomalous[image] = found > 0
        seen += found
    return pixels, seen


@compiled
def sweep(bits, start, magnitude, base, shift, bins, buffer, filled):
    """Count pixels by bin, and collect the keys in bins that hold a breakpoint in `buffer`.

    A bin is 2^shift keys wide; every pixel has one, since the lowest and the highest score are breakpoints. The last
    but one bit of a bin's count marks that it holds a breakpoint. Stops when the buffer has no room for another block,
    or behind the last pixel; returns (position reached, keys in the buffer).

    For speed: by blocks, because the bins' numbers are computed many at a time when nothing else is done in that loop;
    every key is written and the next takes its place unless it is kept, because that needs no branch; unsigned
    positions, because numba looks at signed ones whether they count from the end.
    """
    keys = np.empty(BLOCK, bits.dtype)
    bin_of = np.empty(BLOCK, np.uint32)
    one = bins.dtype.type(1)
    mark = 8 * bins.itemsize - 2
    for first in range(start, bits.size, BLOCK):
        if buffer.size - filled < BLOCK:
            return first, filled
        block = bits[first : first + BLOCK]
        for p in range(block.size):
            keys[p] = block[p] if block[p] >= 0 else -(block[p] & magnitude)
            bin_of[p] = (keys[p] >> shift) - base
        free = buffer[filled:]
        kept = np.uint64(0)
        for p in range(np.uint64(block.size)):
            count = bins[bin_of[p]]
            bins[bin_of[p]] = count + one
            free[kept] = keys[p]
            kept += np.uint64(count >> mark)
        filled += np.int64(kept)
    return bits.size, filled


@compiled
def merge(ordered, breakpoints, between, equal):
    """Add sorted keys to the counts: strictly between breakpoints j - 1 and j (`between`), or at j (`equal`)."""
    one = between.dtype.type(1)
    j = np.uint64(0)
    for i in range(np.uint64(ordered.size)):
        while breakpoints[j] < ordered[i]:
            j += np.uint64(1)
        if breakpoints[j] == ordered[i]:
            equal[j] += one
        else:
            between[j] += one


@compiled
def add_bins(bins, bin_of_breakpoint, between):
    """Add to `between` the pixels of bins without a breakpoint; those of a bin with one are counted separately."""
    for j in range(1, bin_of_breakpoint.size):
        for empty in range(bin_of_breakpoint[j - 1] + 1, bin_of_breakpoint[j]):
            between[j] += bins[empty]


@compiled
def tally(breakpoints, between, equal, keys, regions, weights, hits, false_alarms, false_above, overlap):
    """From counts per interval to counts from the top down: row 0 is the highest breakpoint.

    between[j]: pixels strictly between breakpoints j - 1 and j; equal[j]: pixels at j (anomalous ones in both).
    keys, regions: of the anomalous pixels, ascending; weights: what one pixel of each region adds to the overlap.
    """
    pixels = 0
    anomalous = 0
    covered = 0.0
    p = keys.size - 1
    for j in range(breakpoints.size - 1, -1, -1):
        row = breakpoints.size - 1 - j
        false_above[row] = pixels - anomalous
        pixels += equal[j]
        while p >= 0 and keys[p] == breakpoints[j]:
            covered += weights[regions[p]]
            anomalous += 1
            p -= 1
        hits[row] = anomalous
        false_alarms[row] = pixels - anomalous
        overlap[row] = min(covered, 1.0)  # the last digits of a long sum may pass 1
        pixels += between[j]
