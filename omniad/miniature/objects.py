"""Procedural objects and patterns, drawn in their own coordinates and smooth at the edges.

Each painter takes the coordinates u, v (H, W) of the pixels in the object's frame, where the object fills about
[-1, 1]^2, the size of one pixel in these units, and a generator for what differs between specimens. It returns the
colours (H, W, 3), 0 to 255, and how much of each pixel is object (H, W), 0 to 1.
"""

from collections.abc import Callable

import numpy as np

Painting = tuple[np.ndarray, np.ndarray]
Painter = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], Painting]


def gear(u: np.ndarray, v: np.ndarray, pixel: float, rng: np.random.Generator) -> Painting:
    """A steel gear: twelve teeth, a bore, six bolt holes, turned grooves."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    teeth = 0.80 + 0.09 * np.tanh(4 * np.sin(12 * angle))
    inside = _inside(r - teeth, pixel) * _inside(0.22 - r, pixel)
    for turn in np.arange(6) * np.pi / 3:
        inside *= _inside(0.085 - np.hypot(u - 0.5 * np.cos(turn), v - 0.5 * np.sin(turn)), pixel)
    grooves = 9 * np.sin(55 * r + rng.uniform(-0.4, 0.4)) + 12 * np.cos(2 * angle + rng.uniform(-0.3, 0.3))
    rim = -45 * _inside(np.abs(r - 0.36) - 0.02, pixel) - 30 * _inside(np.abs(r - 0.66) - 0.015, pixel)
    return _grey(150 + grooves + rim) * (0.98, 1.0, 1.04), inside


def capsule(u: np.ndarray, v: np.ndarray, pixel: float, rng: np.random.Generator) -> Painting:
    """A two-coloured capsule with a seam and three printed bars on each half."""
    along = np.clip(u, -0.52, 0.52)
    distance = np.hypot(u - along, v) - 0.36
    red = _inside(u, pixel)[..., None]
    colour = red * (176, 44, 40) + (1 - red) * (226, 214, 186)
    bars = sum(
        _inside(np.maximum(np.abs(u - x) - 0.035, np.abs(v) - 0.16), pixel) for x in (-0.6, -0.45, -0.3, 0.3, 0.45, 0.6)
    )
    seam = _inside(np.abs(u) - 0.03, pixel)
    shade = 1.0 - 0.55 * (v / 0.36) ** 2 + 0.35 * np.exp(-(((v + 0.14) / 0.05) ** 2))
    return colour * (shade * (1 - 0.45 * bars) * (1 - 0.3 * seam))[..., None], _inside(distance, pixel)


def tablets(u: np.ndarray, v: np.ndarray, pixel: float, rng: np.random.Generator) -> Painting:
    """Four round tablets with a score line each, turned at random."""
    colour, inside = np.zeros((*u.shape, 3)), np.zeros(u.shape)
    for x in (-0.47, 0.47):
        for y in (-0.47, 0.47):
            r, turn = np.hypot(u - x, v - y), rng.uniform(0, np.pi)
            across = (u - x) * np.sin(turn) + (v - y) * np.cos(turn)
            tablet = _inside(r - 0.38, pixel)
            line = _inside(np.abs(across) - 0.03, pixel) * _inside(r - 0.31, pixel)
            shade = 215 - 40 * (r / 0.38) ** 4 - 70 * line - 28 * _inside(np.abs(r - 0.31) - 0.015, pixel)
            colour += tablet[..., None] * shade[..., None] * (1.0, 0.94, 0.8)
            inside += tablet
    return colour / np.maximum(inside, 1e-6)[..., None], np.minimum(inside, 1)


def board(u: np.ndarray, v: np.ndarray, pixel: float, rng: np.random.Generator) -> Painting:
    """A circuit board that fills the image: traces, four chips with pins, rows of round pads."""
    traces = _inside(np.abs(_saw(v * 5)) - 0.13, 5 * pixel) * _inside(np.sin(7 * u + np.round(v * 5)) - 0.6, 7 * pixel)
    colour = np.array((24.0, 92.0, 58.0)) + traces[..., None] * (28, 44, 20)
    pads = _inside(np.hypot(_saw(u * 4), _saw(v * 4)) - 0.2, 4 * pixel) * (np.abs(v) > 0.62)
    colour = colour * (1 - pads[..., None]) + pads[..., None] * (196, 168, 92)
    for x, y, width, height in (
        (-0.45, -0.2, 0.27, 0.27),
        (0.4, -0.3, 0.38, 0.16),
        (0.2, 0.3, 0.2, 0.2),
        (-0.5, 0.38, 0.3, 0.12),
    ):
        pins = _inside(np.maximum(np.abs(u - x) - width, np.abs(v - y) - height - 0.07), pixel)
        pins *= _inside(np.abs(_saw((u - x) * 8)) - 0.22, 8 * pixel)
        body = _inside(np.maximum(np.abs(u - x) - width, np.abs(v - y) - height), pixel)
        dot = _inside(np.hypot(u - x + width - 0.08, v - y + height - 0.08) - 0.035, pixel)
        colour = colour * (1 - pins[..., None]) + pins[..., None] * (185, 185, 190)
        colour = colour * (1 - body[..., None]) + body[..., None] * (38, 38, 42)
        colour = colour * (1 - dot[..., None]) + dot[..., None] * (150, 150, 150)
    return colour + 0 * rng.random(), np.ones(u.shape)


def weave(u: np.ndarray, v: np.ndarray, pixel: float, rng: np.random.Generator) -> Painting:
    """A plain weave that fills the image: warp over weft and weft over warp, each thread with its own shade."""
    count = 7.0
    warp, weft = np.abs(np.cos(np.pi * count * u)), np.abs(np.cos(np.pi * count * v))
    column, row = np.floor(count * u + 0.5).astype(int), np.floor(count * v + 0.5).astype(int)
    over = (column + row) % 2 == 0
    shades = rng.normal(0, 7, (2, 64))
    height = np.where(over, warp * (0.6 + 0.4 * weft) * 1.0, weft * (0.6 + 0.4 * warp))
    shade = np.where(over, shades[0][column % 64], shades[1][row % 64])
    colour = np.where(over[..., None], (168.0, 150.0, 122.0), (138.0, 128.0, 116.0))
    return (colour + shade[..., None]) * (0.35 + 0.7 * height)[..., None], np.ones(u.shape)


def button(u: np.ndarray, v: np.ndarray, pixel: float, rng: np.random.Generator) -> Painting:
    """A plastic button: a raised rim, four holes, a fine pattern of rays."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    inside = _inside(r - 0.86, pixel)
    for x in (-0.17, 0.17):
        for y in (-0.17, 0.17):
            inside *= _inside(0.085 - np.hypot(u - x, v - y), pixel)
    rays = 10 * np.sin(36 * angle) * _inside(0.4 - r, pixel) * _inside(r - 0.62, pixel)
    shade = 120 + 45 * np.exp(-(((r - 0.72) / 0.05) ** 2)) - 35 * np.exp(-(((r - 0.4) / 0.04) ** 2)) + rays
    return _grey(shade + rng.normal(0, 4)) * (0.5, 0.78, 1.12), inside


def plug(u: np.ndarray, v: np.ndarray, pixel: float, rng: np.random.Generator) -> Painting:
    """A plug: a ribbed body, a collar and five golden pins."""
    body = _inside(np.maximum(np.abs(u + 0.25) - 0.55, np.abs(v) - 0.5), pixel)
    collar = _inside(np.maximum(np.abs(u - 0.3) - 0.1, np.abs(v) - 0.6), pixel)
    pins = _inside(np.maximum(np.abs(u - 0.6) - 0.27, np.abs(v) - 0.5), pixel)
    pins *= _inside(np.abs(_saw(v * 5)) - 0.22, 5 * pixel)
    ribs = 62 + 22 * np.sin(30 * (u + 0.25)) * _inside(np.abs(v) - 0.38, pixel) + rng.normal(0, 2)
    colour = pins[..., None] * (206, 170, 84) + (1 - pins[..., None]) * _grey(ribs) * (1.0, 0.98, 0.95)
    colour = colour * (1 - collar[..., None]) + collar[..., None] * (104, 106, 112)
    return colour, np.maximum(np.maximum(body, collar), pins)


def _inside(distance: np.ndarray, pixel: float) -> np.ndarray:
    """1 inside a shape, 0 outside, a ramp one pixel wide between; `distance` is negative inside."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def _saw(x: np.ndarray) -> np.ndarray:
    """The distance to the nearest whole number, signed: -0.5 to 0.5."""
    return x - np.round(x)


def _grey(shade: np.ndarray) -> np.ndarray:
    return np.repeat(shade[..., None], 3, axis=2)
