"""Visual traits to photographs: a bird on its perch, in soft light, before a background out of focus.

A bird is drawn facing right in its own units (the body's centre at the origin, y down, its length about 1), then
turned, scaled, mirrored and placed. Everything is drawn at twice the size and scaled down, which smooths the edges.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from demoworld.species import Species

_SUPERSAMPLE = 2
_CURVE_STEPS = 6  # points drawn between two control points of a curve

Colour = tuple[int, int, int]
Shape = Sequence[Sequence[float]]

# Each habitat's upper and lower light in the blur behind the bird, and its bark (hue, saturation, value).
_HABITATS = {
    "forest": ((0.30, 0.55, 0.38), (0.22, 0.60, 0.72), (0.08, 0.45, 0.33)),
    "meadow": ((0.20, 0.50, 0.80), (0.14, 0.55, 0.92), (0.10, 0.50, 0.45)),
    "shore": ((0.55, 0.35, 0.80), (0.11, 0.25, 0.90), (0.09, 0.15, 0.45)),
    "dusk": ((0.92, 0.35, 0.75), (0.06, 0.55, 0.95), (0.05, 0.40, 0.22)),
    "sky": ((0.57, 0.45, 0.92), (0.54, 0.15, 0.98), (0.07, 0.40, 0.38)),
    "winter": ((0.60, 0.12, 0.86), (0.58, 0.20, 0.68), (0.06, 0.25, 0.30)),
}


def render(species: Species, rng: np.random.Generator, size: int = 96) -> Image.Image:
    """One photograph of a species; pose, scale, light, habitat and perch are the draw's.

    Returns:
        RGB, size × size.
    """
    side = size * _SUPERSAMPLE
    habitat = _HABITATS[list(_HABITATS)[rng.integers(len(_HABITATS))]]
    picture = _backdrop(habitat, rng, side)
    place = _placement(rng, side)
    _draw_perch(ImageDraw.Draw(picture), habitat, rng, place, side)
    bird = Image.new("RGB", (side, side))
    mask = Image.new("L", (side, side))
    _Bird(species, rng, place, ImageDraw.Draw(bird), ImageDraw.Draw(mask)).draw()
    bird = ImageChops.multiply(bird, _daylight(side))
    picture.paste(bird, mask=mask)
    picture = picture.reduce(_SUPERSAMPLE)
    brightness, warmth = rng.uniform(0.8, 1.15), rng.uniform(-0.07, 0.07)
    gains = np.array([brightness * (1 + warmth), brightness, brightness * (1 - warmth)])
    return picture.point(np.minimum(255, np.outer(gains, np.arange(256))).astype(int).ravel().tolist())


def _backdrop(habitat: tuple, rng: np.random.Generator, side: int) -> Image.Image:
    """Light and shade out of focus: a few coarse patches, blown up smoothly, from the upper colour to the lower."""
    upper, lower = (np.array(colorsys.hsv_to_rgb(*hsv)) for hsv in habitat[:2])
    depth = np.linspace(0, 1, 6)[:, None, None]
    mix = np.clip(depth + rng.normal(0, 0.3, (6, 6, 1)), 0, 1)
    coarse = (upper * (1 - mix) + lower * mix) * rng.uniform(0.8, 1.1, (6, 6, 1))
    patches = Image.fromarray((255 * np.clip(coarse, 0, 1)).astype(np.uint8))
    blurred = patches.resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(blurred, "RGBA")  # blends
    for _ in range(rng.integers(2, 7)):
        x, y, radius = *rng.uniform(0, side, 2), side * rng.uniform(0.03, 0.09)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 240, int(rng.integers(20, 60))))
    return blurred


def _placement(rng: np.random.Generator, side: int) -> np.ndarray:
    """The bird's own units to pixels: float64 [2, 3], an affine map."""
    angle, scale = rng.normal(0, 0.13), side * rng.uniform(0.52, 0.70)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turn[0] *= -1
    centre = side * (0.5 + rng.uniform(-0.05, 0.05, 2))
    return np.column_stack([turn, centre])


def _draw_perch(
    draw: ImageDraw.ImageDraw, habitat: tuple, rng: np.random.Generator, place: np.ndarray, side: int
) -> None:
    bark = np.array(colorsys.hsv_to_rgb(*habitat[2]))
    _, y = place @ (0.0, 0.42, 1.0)
    tilt, thick = rng.uniform(-0.12, 0.12) * side, side * rng.uniform(0.022, 0.045)
    ends = [(-10.0, y - tilt), (side + 10.0, y + tilt)]
    draw.line(ends, fill=_rgb(bark), width=round(2 * thick))
    draw.line([(x, v - 0.5 * thick) for x, v in ends], fill=_rgb(bark * 1.35), width=round(0.6 * thick))
    leaf = np.array(colorsys.hsv_to_rgb(habitat[0][0], 0.5, 0.45))
    for _ in range(rng.integers(0, 4)):
        x, length = rng.uniform(0, side), side * rng.uniform(0.08, 0.15)
        base = y + tilt * (2 * x / side - 1)
        tip, bend = rng.uniform(-1, 1) * length, rng.choice([-1, 1]) * length
        corners = [
            (x, base),
            (x + 0.6 * tip, base + 0.2 * bend),
            (x + tip, base + bend),
            (x + 0.2 * tip, base + 0.6 * bend),
        ]
        draw.polygon(corners, fill=_rgb(leaf * rng.uniform(0.8, 1.3)))


class _Bird:
    """One bird, drawn onto its own picture and, in white, onto its mask."""

    def __init__(
        self,
        species: Species,
        rng: np.random.Generator,
        place: np.ndarray,
        paint: ImageDraw.ImageDraw,
        mask: ImageDraw.ImageDraw,
    ) -> None:
        t = species.looks
        self.rng, self.paint, self.mask = rng, paint, mask
        self.affine = place.tolist()  # plain numbers: numpy is slower than Python on a handful of points
        self.unit = float(np.hypot(*place[:, 0]))
        self.plump = 0.19 + 0.10 * t[13]
        self.head = 0.145 + 0.04 * t[13]
        self.tail = 0.18 + 0.42 * t[12]
        self.bill = 0.08 + 0.24 * t[9] ** 1.5
        self.bill_depth = 0.025 + 0.05 * t[10]
        self.crest = max(0.0, t[11] - 0.45) * 0.5
        self.hood = t[6]
        self.pattern, self.pattern_ink = int(t[7] * 4.999), 0.25 + 0.5 * t[8]
        self.bars = int(t[14] * 2.999)
        self.back = self._colour(t[0], 0.25 + 0.6 * t[1], 0.35 + 0.5 * t[2])
        self.belly = self._colour(t[3], 0.08 + 0.7 * t[4], 0.95)
        self.cap = self._colour(t[5], 0.75, 0.25 + 0.65 * t[8])
        self.wing = self._colour(t[0] + 0.12 * (t[14] - 0.5), 0.2 + 0.5 * t[1], 0.22 + 0.4 * t[2])
        self.horn = self._colour(0.02 + 0.13 * t[15], 0.8 * abs(2 * t[15] - 1), 0.25 + 0.7 * t[15])
        # How a bird holds itself is the moment's: the head up and forward or drawn in, the tail cocked or hanging.
        self.neck = rng.uniform(-0.02, 0.04)
        self.cocked = rng.normal(0, 0.12)

    def _colour(self, hue: float, saturation: float, value: float) -> np.ndarray:
        """One individual's shade of a species' colour: float64 [3] in 0 to 1."""
        jitter = self.rng.normal(0, 1, 3) * (0.012, 0.04, 0.04)
        return np.array(
            colorsys.hsv_to_rgb((hue + jitter[0]) % 1, *np.clip((saturation + jitter[1], value + jitter[2]), 0, 1))
        )

    def _points(self, shape: Shape) -> list[tuple[float, float]]:
        (a, b, c), (d, e, f) = self.affine
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in shape]

    def _fill(self, shape: Shape, colour: np.ndarray) -> None:
        points = self._points(shape)
        self.paint.polygon(points, fill=_rgb(colour))
        self.mask.polygon(points, fill=255)

    def _stroke(self, shape: Shape, colour: np.ndarray, width: float, on_body: bool = True) -> None:
        """A line; on the body it is plumage, and what of it lies outside the body does not show."""
        points, pixels = self._points(shape), max(1, round(width * self.unit))
        self.paint.line(points, fill=_rgb(colour), width=pixels)
        if not on_body:
            self.mask.line(points, fill=255, width=pixels)

    def _disc(self, centre: tuple[float, float], radius: float, colour: np.ndarray) -> None:
        ((x, y),), r = self._points([centre]), radius * self.unit
        self.paint.ellipse((x - r, y - r, x + r, y + r), fill=_rgb(colour))

    def draw(self) -> None:
        """From the far side to the near: tail, legs, crest, bill, body, breast, wing, head, eye."""
        b, r, black = self.plump, self.head, np.zeros(3)
        hx, hy = 0.27 + self.neck, -b - 0.06 - self.neck  # the head's centre
        tail = np.array([(0.0, -0.04), (-self.tail, -0.075), (-self.tail - 0.03, 0.0), (-self.tail, 0.06), (0.0, 0.07)])
        turn = self.cocked + 0.15
        tail = tail @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) + (-0.30, 0.04)
        self._fill(tail.tolist(), self.wing * 0.85)
        self._stroke([tail[0], tail[2]], self.wing * 0.6, 0.01)
        for foot in (-0.02, 0.07):
            self._stroke(
                [(foot, 0.8 * b), (foot + 0.02, 0.40), (foot + 0.08, 0.42)], self.horn * 0.75, 0.018, on_body=False
            )
        if self.crest:
            for lean in (0.75, 1.0, 1.2):
                tip = (hx - 0.6 * r - self.crest * lean * 0.8, hy - 0.8 * r - self.crest / lean)
                self._fill([(hx + 0.3 * r, hy - 0.85 * r), tip, (hx - 0.8 * r, hy - 0.4 * r)], self.cap * 0.9)
        bill_root, depth = hx + 0.82 * r, self.bill_depth
        tip = (bill_root + self.bill, hy + 0.03 + 0.5 * depth)
        self._fill(
            [(bill_root, hy - depth), (bill_root + 0.5 * self.bill, hy - 0.6 * depth), tip, (bill_root, hy)], self.horn
        )
        self._fill([(bill_root, hy), tip, (bill_root, hy + depth)], self.horn * 0.8)

        outline = [
            (hx + r, hy), (hx + 0.6 * r, hy - 0.8 * r), (hx - 0.1 * r, hy - r), (hx - 0.85 * r, hy - 0.5 * r),
            (0.02, -0.92 * b), (-0.20, -0.62 * b), (-0.38, 0.0), (-0.30, 0.10), (-0.12, 0.80 * b), (0.08, b),
            (0.27, 0.62 * b), (0.36, 0.0), (hx + 0.80 * r, hy + 0.75 * r),
        ]  # fmt: skip
        self._fill(_curve(outline), self.back)
        under = [
            (hx + 0.95 * r, hy + 0.15 * r), (hx + 0.1 * r, hy + 0.5 * r), (0.12, -0.1 * b), (-0.05, 0.35 * b),
            (-0.34, 0.07), (-0.12, 0.79 * b), (0.08, 0.98 * b), (0.265, 0.61 * b), (0.35, 0.0),
            (hx + 0.78 * r, hy + 0.74 * r),
        ]  # fmt: skip
        self._fill(_curve(under), self.belly)
        self._draw_breast(b)

        wing = [
            (0.20, -0.40 * b),
            (0.02, -0.72 * b),
            (-0.20, -0.45 * b),
            (-0.50, 0.12),
            (-0.16, 0.42 * b),
            (0.10, 0.32 * b),
        ]
        self._fill(_curve(wing), self.wing)
        for fold in (0.10, 0.24):
            self._stroke([(0.02, fold * b), (-0.42, 0.09 + 0.1 * fold)], self.wing * 0.65, 0.012)
        for bar in range(self.bars):
            x = 0.07 - 0.11 * bar
            self._stroke([(x, -0.55 * b), (x - 0.05, -0.1 * b), (x - 0.03, 0.3 * b)], 0.25 * self.belly + 0.75, 0.022)

        crown = [
            (hx + r, hy - 0.1 * r),
            (hx + 0.6 * r, hy - 0.8 * r),
            (hx - 0.1 * r, hy - r),
            (hx - 0.85 * r, hy - 0.5 * r),
        ]
        if self.hood > 0.66:  # a hood: the whole head
            self._fill(
                _curve(
                    [*crown, (hx - 0.9 * r, hy + 0.7 * r), (hx + 0.2 * r, hy + 1.0 * r), (hx + 0.85 * r, hy + 0.7 * r)]
                ),
                self.cap,
            )
        elif self.hood > 0.33:  # a cap down to the eye
            self._fill(_curve([*crown, (hx - 0.8 * r, hy - 0.1 * r), (hx + 0.2 * r, hy - 0.1 * r)]), self.cap)
        else:  # a stripe through the eye
            self._stroke(
                [(hx + 0.9 * r, hy - 0.02), (hx + 0.35 * r, hy - 0.22 * r), (hx - 0.9 * r, hy - 0.1 * r)],
                self.cap,
                0.045,
            )
        eye = (hx + 0.35 * r, hy - 0.22 * r)
        self._disc(eye, 0.042, 0.3 * self.belly + 0.65)
        self._disc(eye, 0.033, black + 0.05)
        self._disc((eye[0] + 0.01, eye[1] - 0.012), 0.011, black + 1)

    def _draw_breast(self, b: float) -> None:
        ink = self.belly * (1 - self.pattern_ink)
        if self.pattern == 1:  # spots
            for row in range(4):
                for column in range(4):
                    x = 0.29 - 0.11 * row + 0.02 * column
                    self._disc((x, b * (-0.05 + 0.26 * column - 0.06 * row)), 0.017, ink)
        elif self.pattern == 2:  # streaks along the body
            for row in range(4):
                for column in range(3):
                    x, y = 0.28 - 0.11 * column, b * (-0.1 + 0.26 * row)
                    self._stroke([(x, y), (x - 0.07, y + 0.06)], ink, 0.02)
        elif self.pattern == 3:  # bars across it
            for column in range(5):
                x = 0.30 - 0.09 * column
                self._stroke([(x - 0.01, b * (0.02 + 0.03 * column)), (x - 0.05, b * 0.72)], ink, 0.02)
        elif self.pattern == 4:  # one broad band
            self._stroke([(0.14, -0.30 * b), (0.24, -0.02), (0.335, 0.02)], ink, 0.07)


def _curve(points: Shape) -> Shape:
    """A closed Catmull-Rom curve through its control points."""
    control = np.asarray(points)
    around = control[(np.arange(len(points))[:, None] + np.arange(-1, 3)) % len(points)]
    return (_curve_weights() @ around).reshape(-1, 2).tolist()


@lru_cache
def _curve_weights() -> np.ndarray:
    x = np.linspace(0, 1, _CURVE_STEPS, endpoint=False)
    return 0.5 * np.stack(
        [-(x**3) + 2 * x**2 - x, 3 * x**3 - 5 * x**2 + 2, -3 * x**3 + 4 * x**2 + x, x**3 - x**2], axis=1
    )


@lru_cache
def _daylight(side: int) -> Image.Image:
    """Light from above: full at the top, a third less at the foot."""
    y = np.linspace(0, 1, side)
    column = np.clip(1.12 - 0.45 * y, 0, 1)
    grey = np.repeat((255 * column).astype(np.uint8)[:, None], side, axis=1)
    return Image.merge("RGB", [Image.fromarray(grey)] * 3)


def _rgb(colour: np.ndarray) -> Colour:
    r, g, b = colour.tolist()
    return int(255 * min(1.0, r)), int(255 * min(1.0, g)), int(255 * min(1.0, b))
