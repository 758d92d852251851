"""The compiled loops of the metrics. They see scores as order-preserving integers ("keys"), never as floats.

The bits of a float, read as a signed integer b, order like the float where b >= 0; where b < 0 minus the magnitude bits
does. Both zeros get key 0. So keys compare exactly as the scores do, and their differences can index a table.

Compiled machine code is kept beside this file, or in the user's cache folder where that is read-only (numba's own rule;
NUMBA_CACHE_DIR names another place). Where neither can be written, each process compiles anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

BLOCK = 2048  # pixels; the block's bin numbers stay in the fastest cache


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with a cache on disk, or without one where no folder can hold it."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba's "no locator available"
        return numba.njit(nogil=True)(function)


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
        x = 0
        while x < width:
            if not mask[y, x]:
                x += 1
                continue
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
def gather(bits, begin, end, region_of, runs, first_region, magnitude, keys, regions):
    """Key and region of every anomalous pixel of one image, in reading order. bits (H*W,) signed integers."""
    n = 0
    for run in range(runs):
        for pixel in range(begin[run], end[run]):
            b = bits[pixel]
            keys[n] = b if b >= 0 else -(b & magnitude)
            regions[n] = first_region + region_of[run]
            n += 1


@compiled
def sweep(bits, start, magnitude, base, shift, marked, bins, buffer, filled):
    """Count pixels by bin; the keys whose bin holds a breakpoint (`marked`) are collected in `buffer` instead.

    A bin is 2^shift keys wide; every pixel has one, since the lowest and the highest score are breakpoints. Stops when
    the buffer has no room for another block, or behind the last pixel; returns (position reached, keys in the buffer).
    By blocks, because the bins' numbers are computed many at a time when nothing else is done in that loop.
    """
    bin_of = np.empty(BLOCK, np.int32)
    for first in range(start, bits.size, BLOCK):
        if buffer.size - filled < BLOCK:
            return first, filled
        block = bits[first : first + BLOCK]
        for p in range(block.size):
            key = block[p] if block[p] >= 0 else -(block[p] & magnitude)
            bin_of[p] = (key >> shift) - base
        for p in range(block.size):
            if marked[bin_of[p]]:
                buffer[filled] = block[p] if block[p] >= 0 else -(block[p] & magnitude)
                filled += 1
            else:
                bins[bin_of[p]] += 1
    return bits.size, filled


@compiled
def merge(ordered, breakpoints, between, equal):
    """Add sorted keys to the counts: strictly between breakpoints j - 1 and j (`between`), or at j (`equal`)."""
    j = 0
    for i in range(ordered.size):
        while breakpoints[j] < ordered[i]:
            j += 1
        if breakpoints[j] == ordered[i]:
            equal[j] += 1
        else:
            between[j] += 1


@compiled
def add_bins(bins, bin_of_row, between):
    """Add the pixels of each bin that holds no breakpoint to those between its neighbouring breakpoints."""
    j = 0
    for i in range(bins.size):
        while bin_of_row[j] < i:
            j += 1
        between[j] += bins[i]


@compiled
def tally(breakpoints, between, equal, keys, weights, hits, false_alarms, false_above, overlap):
    """From counts per interval to counts from the top down: row 0 is the highest breakpoint.

    between[j]: pixels strictly between breakpoints j - 1 and j; equal[j]: pixels at j (anomalous ones in both).
    keys, weights: the anomalous pixels, ascending, and what each adds to the overlap.
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
            covered += weights[p]
            anomalous += 1
            p -= 1
        hits[row] = anomalous
        false_alarms[row] = pixels - anomalous
        overlap[row] = min(covered, 1.0)  # the last digits of a long sum may pass 1
        pixels += between[j]
