"""A generated optic-disc segmentation data set that looks like fundus photographs.

It replaces PaddleSeg's ``OpticDiscSeg`` if nothing can be downloaded.  All geometry is in units of
the image side with y pointing down, so a scene looks the same at every image size.  Unfinished
images are float32 of shape (3, size, size), RGB, 0 to 1; colours are (3, 1, 1).
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from paddleseg.cvlibs import manager
from paddleseg.datasets import OpticDiscSeg
from paddleseg.utils import logger
from PIL import Image

from paddleseg_autoloss.checks import checked_integer, is_integer
from paddleseg_autoloss.errors import ConfigError

__all__ = ["GENERATOR_VERSION", "SyntheticFundus"]

#: Version of the generator; increase it with every change of an image's pixels.
GENERATOR_VERSION = 1

_RECIPE_FILE = "recipe.json"
_LABELS = ("background", "optic_disc")
_MASK_PALETTE = (0, 0, 0, 128, 0, 0)
_SPLITS = ("train", "val")
_REMEDY = "delete the folder or choose another dataset_root"

_VESSEL_STEPS = 28
_VESSEL_CHUNK = 4
_SUPERSAMPLING = 4


def _colours(*rgb: tuple[float, float, float]) -> np.ndarray:
    return np.array(rgb, np.float32).reshape(-1, 3, 1, 1)


_RETINA_COLOURS = _colours(
    (0.70, 0.33, 0.12),
    (0.50, 0.28, 0.14),
    (0.50, 0.13, 0.04),
    (0.32, 0.17, 0.07),
    (0.36, 0.25, 0.18),
)
_DISC_COLOURS = _colours(
    (1.00, 0.62, 0.32),
    (1.00, 0.84, 0.48),
    (0.94, 0.46, 0.22),
    (0.98, 0.68, 0.50),
)
_ATROPHY_COLOURS = _colours((0.98, 0.84, 0.50), (0.90, 0.66, 0.36), (0.96, 0.92, 0.74))
_EXUDATE_COLOURS = _colours((1.00, 0.92, 0.50), (0.96, 0.78, 0.44), (0.95, 0.95, 0.78))
_PIGMENT_COLOUR = _colours((0.14, 0.05, 0.03))[0]
_CUP_COLOUR = _colours((1.00, 0.94, 0.70))[0]
_GLOW_COLOUR = _colours((0.88, 0.60, 0.32))[0]
_HAZE_COLOUR = _colours((0.42, 0.46, 0.38))[0]
_REFLEX_COLOUR = _colours((0.76, 0.72, 0.54))[0]
_TESSELLATION_TINT = _colours((1.7, 1.0, 0.7))[0]
# Blood absorbs green and blue most.
_BLOOD_ABSORPTION = _colours((0.40, 0.72, 0.64))[0]


@dataclass(frozen=True)
class _Ellipse:
    """An ellipse with semi-axes ``a`` and ``b`` (image sides), turned by ``angle`` (radians)."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0

    @property
    def mean_radius(self) -> float:
        return float(np.sqrt(self.a * self.b))

    def coordinates(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates along both axes, in units of the semi-axes."""
        xx, yy = _pixel_centres(size)
        dx, dy = xx - self.x, yy - self.y
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u = (dx * cos + dy * sin) / self.a
        v = (dy * cos - dx * sin) / self.b
        return u.astype(np.float32), v.astype(np.float32)

    def distance(self, size: int) -> np.ndarray:
        """Distance of every pixel from the centre; 1 on the outline."""
        return np.hypot(*self.coordinates(size))


@dataclass(frozen=True)
class _Eye:
    """The geometry of an eye; ``temporal`` is +1 if the fovea is right of the disc, else -1."""

    field: _Ellipse
    disc: _Ellipse
    fovea: tuple[float, float]
    temporal: int


@lru_cache(maxsize=4)
def _pixel_centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    return centres[None, :], centres[:, None]


def _chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _mixed_colour(rng: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    weights = rng.dirichlet(np.full(len(palette), 0.7)).astype(np.float32)
    return np.tensordot(weights, palette, 1)


def _colour_cast(rng: np.random.Generator, spread: float) -> np.ndarray:
    return rng.uniform(1.0 - spread, 1.0 + spread, (3, 1, 1)).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Noise of about unit variance whose structures are 1 / ``cells`` of the image wide."""
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def _soft_inside(distance: np.ndarray, softness: float) -> np.ndarray:
    """1 inside, 0 outside, 0.5 on the outline ``distance`` = 1; ``softness`` in the same unit."""
    return 1.0 / (1.0 + np.exp(np.clip((distance - 1.0) / softness, -30.0, 30.0)))


def _blend(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    image += alpha * (colour - image)


def _downsample(canvas: np.ndarray, size: int) -> np.ndarray:
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255.0


def _random_eye(rng: np.random.Generator) -> _Eye:
    jitter = rng.uniform(-0.01, 0.01, 2)
    field_radius = rng.uniform(0.465, 0.515)
    field = _Ellipse(0.5 + jitter[0], 0.5 + jitter[1], field_radius, field_radius)
    temporal = 1 if _chance(rng, 0.5) else -1

    radius = np.sqrt(rng.uniform(0.0118, 0.0275) / np.pi)
    aspect = np.sqrt(rng.uniform(1.0, 1.25))
    offset = np.array([-temporal * rng.uniform(0.02, 0.37), rng.normal(0.0, 0.07)])
    # The whole disc stays in view, or its area would fall short.
    reach = min(field_radius, 0.49) - 1.1 * aspect * radius
    offset *= min(1.0, reach / np.hypot(*offset))
    disc = _Ellipse(
        field.x + offset[0],
        field.y + offset[1],
        radius / aspect,
        radius * aspect,
        rng.uniform(-0.35, 0.35),
    )
    fovea = (
        disc.x + temporal * rng.uniform(0.30, 0.40),
        disc.y + rng.uniform(-0.01, 0.06),
    )
    return _Eye(field, disc, fovea, temporal)


def _paint_retina(rng: np.random.Generator, eye: _Eye, size: int) -> np.ndarray:
    """Background with choroidal texture, in some images tessellated, and the dark fovea."""
    colour = _mixed_colour(rng, _RETINA_COLOURS) * rng.uniform(0.8, 1.15)
    tint = colour * _colour_cast(rng, 0.12)
    image = np.empty((3, size, size), np.float32)
    image[:] = colour
    _blend(image, np.clip(0.5 + 0.4 * _smooth_noise(rng, 5, size), 0.0, 1.0), tint)

    grain = 0.05 * _smooth_noise(rng, 20, size) + 0.03 * _smooth_noise(rng, 60, size)
    image *= 1.0 + rng.uniform(0.4, 1.6) * grain
    if _chance(rng, 0.4):
        ridges = np.exp(-5.0 * np.abs(_smooth_noise(rng, int(rng.integers(14, 26)), size)))
        patchy = np.clip(0.5 + 0.5 * _smooth_noise(rng, 4, size), 0.0, 1.0)
        strength = rng.uniform(0.15, 0.55)
        _blend(image, strength * ridges * patchy, colour * _TESSELLATION_TINT)

    width = rng.uniform(0.05, 0.09)
    depth = rng.uniform(0.2, 0.55)
    distance = _Ellipse(*eye.fovea, width, width).distance(size)
    image *= 1.0 - depth * np.exp(-0.5 * distance**2)
    if _chance(rng, 0.25):
        _paint_macular_reflex(rng, image, distance)
    return image


def _paint_macular_reflex(
    rng: np.random.Generator, image: np.ndarray, distance: np.ndarray
) -> None:
    """The bright ring around the fovea of young eyes, broken into arcs."""
    ring = np.exp(-0.5 * ((distance - rng.uniform(1.6, 2.2)) / 0.3) ** 2)
    arcs = np.clip(_smooth_noise(rng, 9, image.shape[-1]), 0.0, 1.0)
    _blend(image, rng.uniform(0.2, 0.6) * ring * arcs, _REFLEX_COLOUR)


def _paint_surroundings(rng: np.random.Generator, image: np.ndarray, eye: _Eye) -> None:
    """The glow of the nerve fibres around the disc, and peripapillary atrophy next to it."""
    size = image.shape[-1]
    if _chance(rng, 0.7):
        glow = np.exp(-0.5 * (eye.disc.distance(size) / rng.uniform(1.4, 2.6)) ** 2)
        _blend(image, rng.uniform(0.05, 0.2) * glow, _GLOW_COLOUR)
    if not _chance(rng, 0.3):
        return
    scale = rng.uniform(1.1, 1.5)
    shift = eye.disc.a * rng.uniform(0.25, 0.7)
    direction = rng.normal(0.0, 0.5)
    crescent = _Ellipse(
        eye.disc.x + eye.temporal * shift * np.cos(direction),
        eye.disc.y + shift * np.sin(direction),
        eye.disc.a * scale,
        eye.disc.b * scale * rng.uniform(0.9, 1.1),
        eye.disc.angle,
    )
    mottle = np.clip(0.8 + 0.25 * _smooth_noise(rng, 40, size), 0.0, 1.0)
    alpha = _soft_inside(_ragged_distance(rng, crescent, size, 0.08), rng.uniform(0.03, 0.12))
    colour = _mixed_colour(rng, _ATROPHY_COLOURS)
    _blend(image, rng.uniform(0.3, 0.85) * mottle * alpha, colour)


def _ragged_distance(
    rng: np.random.Generator, ellipse: _Ellipse, size: int, raggedness: float
) -> np.ndarray:
    """`_Ellipse.distance` with an outline that wanders by about ``raggedness``."""
    u, v = ellipse.coordinates(size)
    angle = np.arctan2(v, u)
    outline = np.ones_like(angle)
    for order in range(2, 6):
        amplitude = raggedness * rng.normal(0.0, 1.5 / order)
        outline += amplitude * np.cos(order * angle + rng.uniform(0.0, 2.0 * np.pi))
    return np.hypot(u, v) / np.maximum(outline, 0.3)


def _place_beside_disc(
    rng: np.random.Generator, eye: _Eye, radius: float
) -> tuple[float, float] | None:
    """Return a visible centre for an object of ``radius`` that does not touch the disc, or None."""
    for _ in range(20):
        distance = (eye.field.a - radius) * np.sqrt(rng.random())
        angle = rng.uniform(0.0, 2.0 * np.pi)
        x = eye.field.x + distance * np.cos(angle)
        y = eye.field.y + distance * np.sin(angle)
        if np.hypot(x - eye.disc.x, y - eye.disc.y) > 1.15 * (radius + eye.disc.b):
            return float(x), float(y)
    return None


def _paint_lesions(rng: np.random.Generator, image: np.ndarray, eye: _Eye) -> None:
    if _chance(rng, 0.5):
        for _ in range(int(rng.integers(1, 4))):
            _paint_patch(rng, image, eye)
    if _chance(rng, 0.65):
        _paint_dots(rng, image, eye, _mixed_colour(rng, _EXUDATE_COLOURS), rng.uniform(0.4, 1.0))
    if _chance(rng, 0.25):
        _paint_dots(rng, image, eye, _PIGMENT_COLOUR, rng.uniform(0.3, 0.8))


def _paint_patch(rng: np.random.Generator, image: np.ndarray, eye: _Eye) -> None:
    """A patch of atrophy or exudate up to the size of the disc, in some cases coloured like it."""
    size = image.shape[-1]
    radius = eye.disc.mean_radius * rng.uniform(0.35, 1.1)
    aspect = np.sqrt(rng.uniform(1.0, 1.5))
    centre = _place_beside_disc(rng, eye, radius * aspect)
    if centre is None:
        return
    disc_like = _chance(rng, 0.45)
    ellipse = _Ellipse(*centre, radius / aspect, radius * aspect, rng.uniform(0.0, np.pi))
    distance = _ragged_distance(rng, ellipse, size, 0.03 if disc_like else 0.14)
    colour = _mixed_colour(rng, _DISC_COLOURS if disc_like else _ATROPHY_COLOURS)
    mottle = 1.0 + rng.uniform(0.02, 0.2) * _smooth_noise(rng, 36, size)
    alpha = rng.uniform(0.4, 0.95) * _soft_inside(distance, rng.uniform(0.04, 0.2)) * mottle
    _blend(image, np.clip(alpha, 0.0, 1.0), colour)


def _paint_dots(
    rng: np.random.Generator,
    image: np.ndarray,
    eye: _Eye,
    colour: np.ndarray,
    strength: float,
) -> None:
    """Clusters of small dots: drusen and exudates, or pigment."""
    size = image.shape[-1]
    side = _SUPERSAMPLING * size
    canvas = np.zeros((side, side), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        spread = rng.uniform(0.01, 0.05)
        centre = _place_beside_disc(rng, eye, 2.0 * spread)
        if centre is None:
            continue
        count = int(rng.integers(2, 18))
        centres = np.array(centre) + spread * rng.standard_normal((count, 2))
        radii = rng.uniform(0.003, 0.012, count)
        for (x, y), radius in zip(centres, radii):
            middle = (int(x * side), int(y * side))
            cv2.circle(canvas, middle, max(1, int(radius * side)), 255, cv2.FILLED)
    # Remove dots on the disc, which would look like part of it.
    outside = 1.0 - _soft_inside(eye.disc.distance(size) / 1.1, 0.03)
    _blend(image, strength * outside * _downsample(canvas, size), colour)


def _paint_disc(rng: np.random.Generator, image: np.ndarray, eye: _Eye) -> None:
    """The disc with a redder nasal side, and the brighter cup in it."""
    size = image.shape[-1]
    u, v = eye.disc.coordinates(size)
    distance = np.hypot(u, v)
    colour = _mixed_colour(rng, _DISC_COLOURS) * rng.uniform(0.85, 1.0)
    nasal = np.clip(0.5 - 0.5 * eye.temporal * u, 0.0, 1.0)
    shade = 1.0 - rng.uniform(0.0, 0.35) * nasal * _BLOOD_ABSORPTION
    mottle = 1.0 + 0.03 * _smooth_noise(rng, 48, size)
    rim = rng.uniform(0.7, 1.0) * _soft_inside(distance, rng.uniform(0.03, 0.11))
    _blend(image, rim, colour * shade * mottle)

    ratio = rng.uniform(0.3, 0.65)
    shift = (1.0 - ratio) * rng.uniform(0.0, 0.45) * eye.temporal
    cup_distance = np.hypot(u - shift, v - rng.normal(0.0, 0.06)) / ratio
    cup = rng.uniform(0.1, 0.85) * _soft_inside(cup_distance, rng.uniform(0.08, 0.25))
    _blend(image, cup, _CUP_COLOUR * rng.uniform(0.85, 1.0))


@dataclass
class _Vessels:
    """Vessels of one generation: P paths of N points, in image sides and radians."""

    points: np.ndarray
    headings: np.ndarray
    widths: np.ndarray
    lengths: np.ndarray
    opacities: np.ndarray


def _grow(
    rng: np.random.Generator,
    start: np.ndarray,
    heading: np.ndarray,
    turn: np.ndarray,
    length: np.ndarray,
    width: np.ndarray,
    opacity: np.ndarray,
) -> _Vessels:
    """Grow P vessels that turn by ``turn`` in all, wobble, and taper."""
    along = np.linspace(0.0, 1.0, _VESSEL_STEPS)
    wobble = np.cumsum(rng.normal(0.0, 0.07, (len(start), _VESSEL_STEPS)), axis=1)
    headings = heading[:, None] + turn[:, None] * along + wobble
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=-1)
    steps *= (length / (_VESSEL_STEPS - 1))[:, None, None]
    steps[:, 0] = 0.0
    points = start[:, None, :] + np.cumsum(steps, axis=1)
    widths = width[:, None] * (1.0 - 0.65 * along)
    return _Vessels(points, headings, widths, length, opacity)


def _grow_arcades(rng: np.random.Generator, eye: _Eye) -> _Vessels:
    """An artery and a vein into each quadrant, and some small vessels in any direction."""
    small = int(rng.integers(4, 9))
    # Degrees from the temporal direction.  Temporal arcades bow around the fovea, nasal fan out.
    quadrants = np.repeat([-78.0, 78.0, -128.0, 128.0], 2)
    turns = np.repeat([75.0, -75.0, -15.0, 15.0], 2)
    count = len(quadrants) + small
    heading = np.concatenate(
        [quadrants + rng.normal(0.0, 13.0, 8), rng.uniform(-180.0, 180.0, small)]
    )
    turn = np.concatenate([turns + rng.normal(0.0, 20.0, 8), rng.normal(0.0, 25.0, small)])
    vein = np.arange(count) % 2 == 1
    width = np.where(vein, 0.0130, 0.0090) * rng.uniform(0.75, 1.15, count)
    width[8:] *= 0.5
    length = rng.uniform(0.55, 0.8, count)
    length[8:] *= 0.4
    if eye.temporal < 0:
        heading, turn = 180.0 - heading, -turn
    hub = np.array([eye.disc.x - 0.2 * eye.temporal * eye.disc.a, eye.disc.y])
    start = hub + 0.12 * eye.disc.a * rng.standard_normal((count, 2))
    opacity = np.where(vein, 255, 190)
    return _grow(rng, start, np.deg2rad(heading), np.deg2rad(turn), length, width, opacity)


def _grow_branches(rng: np.random.Generator, parents: _Vessels, each: int) -> _Vessels:
    """``each`` branches per parent; they begin sideways and then bend parallel to the parent."""
    parent = np.repeat(np.arange(len(parents.points)), each)
    node = rng.integers(4, _VESSEL_STEPS - 5, len(parent))
    side = rng.choice([-1.0, 1.0], len(parent))
    return _grow(
        rng,
        parents.points[parent, node],
        parents.headings[parent, node] + side * rng.uniform(0.4, 1.0, len(parent)),
        -side * rng.uniform(0.0, 0.9, len(parent)),
        parents.lengths[parent] * rng.uniform(0.3, 0.6, len(parent)),
        parents.widths[parent, node] * rng.uniform(0.5, 0.75, len(parent)),
        parents.opacities[parent],
    )


def _draw_vessels(canvas: np.ndarray, vessels: _Vessels) -> None:
    side = canvas.shape[0]
    pixels = np.round(vessels.points * side).astype(np.int32)
    batches: dict[tuple[int, int], list[np.ndarray]] = {}
    for first in range(0, _VESSEL_STEPS - 1, _VESSEL_CHUNK):
        chunk = pixels[:, first : first + _VESSEL_CHUNK + 1]
        thickness = np.maximum(1, np.round(vessels.widths[:, first] * side)).astype(int)
        for path, *key in zip(chunk, thickness.tolist(), vessels.opacities.tolist()):
            batches.setdefault((key[0], key[1]), []).append(path)
    for (thickness_px, opacity), paths in sorted(batches.items(), key=lambda item: item[0]):
        cv2.polylines(canvas, paths, False, opacity, thickness_px)


def _paint_vessels(rng: np.random.Generator, image: np.ndarray, eye: _Eye) -> None:
    """The vessel tree that radiates from the disc and crosses it."""
    size = image.shape[-1]
    side = _SUPERSAMPLING * size
    arcades = _grow_arcades(rng, eye)
    branches = _grow_branches(rng, arcades, 3)
    twigs = _grow_branches(rng, branches, 2)
    canvas = np.zeros((side, side), np.uint8)
    for vessels in (twigs, branches, arcades):
        _draw_vessels(canvas, vessels)
    alpha = rng.uniform(0.4, 1.0) * _downsample(canvas, size)
    image *= 1.0 - alpha * _BLOOD_ABSORPTION


def _expose(rng: np.random.Generator, image: np.ndarray, eye: _Eye) -> None:
    """Uneven light, vignetting with a tinted margin, and the colour balance of the camera."""
    size = image.shape[-1]
    radial = eye.field.distance(size)
    light = np.exp(rng.uniform(0.05, 0.28) * _smooth_noise(rng, 3, size))
    light *= 1.0 - rng.uniform(0.1, 0.6) * np.clip(radial, 0.0, 1.1) ** rng.uniform(2.0, 4.0)
    image *= light * (rng.uniform(0.68, 1.1) * _colour_cast(rng, 0.06))
    if _chance(rng, 0.4):
        haze = np.clip((radial - 0.75) / 0.25, 0.0, 1.0) ** 2
        haze *= np.clip(0.5 + 0.6 * _smooth_noise(rng, 3, size), 0.0, 1.0)
        _blend(image, rng.uniform(0.1, 0.5) * haze, _HAZE_COLOUR)
    np.clip(image, 0.0, None, out=image)
    # The film curve: highlights saturate gently.
    np.subtract(1.0, np.exp(-1.6 * image), out=image)
    image /= 1.0 - np.exp(-1.6)
    image **= np.float32(rng.uniform(1.0, 1.3))


def _photograph(rng: np.random.Generator, image: np.ndarray, eye: _Eye) -> np.ndarray:
    """Blur, field stop, sensor noise and quantisation to 8 bits."""
    size = image.shape[-1]
    sigma = (rng.uniform(1.5, 3.0) if _chance(rng, 0.1) else rng.uniform(0.3, 1.4)) * size / 256
    image = cv2.GaussianBlur(image.transpose(1, 2, 0), (0, 0), sigma)
    edge = np.clip((1.0 - eye.field.distance(size)) * eye.field.a * size + 0.5, 0.0, 1.0)
    image *= edge[..., None]
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image += noise * rng.uniform(0.004, 0.022) * (0.25 + np.sqrt(image))
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _paint_sample(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One RGB photograph and its mask, both uint8 of ``size`` x ``size`` pixels."""
    eye = _random_eye(rng)
    image = _paint_retina(rng, eye, size)
    _paint_surroundings(rng, image, eye)
    _paint_lesions(rng, image, eye)
    _paint_disc(rng, image, eye)
    _paint_vessels(rng, image, eye)
    _expose(rng, image, eye)
    mask = (eye.disc.distance(size) <= 1.0).astype(np.uint8)
    return _photograph(rng, image, eye), mask


def _write_image(path: Path, image: np.ndarray, quality: int) -> None:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise OSError(f"OpenCV could not encode {path}")
    path.write_bytes(encoded.tobytes())


def _write_mask(path: Path, mask: np.ndarray) -> None:
    height, width = mask.shape
    picture = Image.frombytes("P", (width, height), mask.tobytes())
    picture.putpalette(_MASK_PALETTE)
    picture.save(path)


def _write_split(folder: Path, split: str, count: int, seed: int, size: int) -> None:
    lines = []
    for number in range(count):
        # Even indices train and odd ones validate: no split depends on the size of the other.
        index = 2 * number + _SPLITS.index(split)
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        image, mask = _paint_sample(rng, size)
        image_name = f"JPEGImages/{split}_{number:04d}.jpg"
        mask_name = f"Annotations/{split}_{number:04d}.png"
        _write_image(folder / image_name, image, int(rng.integers(85, 96)))
        _write_mask(folder / mask_name, mask)
        lines.append(f"{image_name} {mask_name}\n")
    (folder / f"{split}_list.txt").write_text("".join(lines), encoding="ascii")


def _write_data_set(folder: Path, recipe: dict[str, Any]) -> None:
    (folder / "JPEGImages").mkdir()
    (folder / "Annotations").mkdir()
    for split in _SPLITS:
        _write_split(folder, split, recipe[f"num_{split}"], recipe["seed"], recipe["image_size"])
    (folder / "labels.txt").write_text("\n".join(_LABELS) + "\n", encoding="ascii")
    # Write the recipe last: a folder with a recipe is complete.
    (folder / _RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="ascii")


def _generate(root: Path, recipe: dict[str, Any]) -> None:
    """Create the data set ``root`` in one step, unless another process does so first."""
    temporary = root.parent / f".{root.name}.{uuid.uuid4().hex}.tmp"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f"dataset_root: expected a writable folder, found {str(root)!r}, which cannot be "
            f"created ({error.strerror})"
        ) from error
    try:
        _write_data_set(temporary, recipe)
        try:
            os.rename(temporary, root)
        except OSError:
            if not root.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_recipe(root: Path, expected: dict[str, Any]) -> None:
    """Refuse a folder that does not contain the data set of the recipe ``expected``."""
    try:
        found = json.loads((root / _RECIPE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"dataset_root: expected a data set of SyntheticFundus or no folder, found "
            f"{str(root)!r} without a readable {_RECIPE_FILE}; {_REMEDY}"
        )
    keys = [key for key in expected if found.get(key) != expected[key]]
    if keys:
        differences = [
            ", ".join(f"{key}={recipe.get(key)!r}" for key in keys) for recipe in (found, expected)
        ]
        raise ConfigError(
            f"dataset_root: expected a data set with {differences[1]}, found {str(root)!r} with "
            f"{differences[0]}; {_REMEDY}"
        )


def _checked_recipe(seed: Any, num_train: Any, num_val: Any, image_size: Any) -> dict[str, Any]:
    return {
        "generator": "SyntheticFundus",
        "version": GENERATOR_VERSION,
        "seed": checked_integer("seed", seed, least=0, most=2**32 - 1),
        "num_train": checked_integer("num_train", num_train, least=1),
        "num_val": checked_integer("num_val", num_val, least=1),
        "image_size": _checked_size(image_size),
    }


def _checked_size(image_size: Any) -> int:
    if not is_integer(image_size, least=64) or image_size % 32 != 0:
        raise ConfigError(
            f"image_size: expected a multiple of 32 of at least 64 (pixels), found {image_size!r}"
        )
    return int(image_size)


def _checked_root(dataset_root: Any) -> Path:
    if not isinstance(dataset_root, (str, os.PathLike)) or not os.fspath(dataset_root):
        raise ConfigError(f"dataset_root: expected the path of a folder, found {dataset_root!r}")
    return Path(dataset_root)


def _checked_mode(mode: Any) -> str:
    if not isinstance(mode, str) or mode.lower() not in _SPLITS:
        raise ConfigError(f"mode: expected 'train' or 'val', found {mode!r}")
    return mode.lower()


@manager.DATASETS.add_component
class SyntheticFundus(OpticDiscSeg):
    """Generated fundus photographs with the optic disc as class 1, everything else as class 0.

    The first use generates the data set in ``dataset_root`` (about 7 s on one core for 260 images
    of 256 px) in the layout of ``OpticDiscSeg``; later uses read it.  The disc covers 1 % to 3 % of
    an image; bright lesions and peripapillary atrophy resemble it.  Image i of a split depends on
    ``seed``, i and ``image_size``, not on the number of images.  Several processes may start at the
    same time, because the finished folder appears in one step.  A killed process may leave a hidden
    folder ``.<name>.<hex digits>.tmp`` next to it, which can be deleted.

    Args:
        dataset_root: folder of the data set.  It must not exist yet, or contain a data set
            generated with the same arguments.  Default: ``"data/synthetic_fundus"``.
        transforms: list of PaddleSeg transforms; None reads the images without any. Default: None.
        mode: ``"train"`` or ``"val"``. Default: ``"train"``.
        edge: whether training samples also contain an edge mask.  Default: False.
        seed: seed of the generator, 0 to 2**32 - 1. Default: 0.
        num_train: number of images for training, at least 1. Default: 200.
        num_val: number of images for validation, at least 1. Default: 60.
        image_size: side of the square images in pixels, a multiple of 32, at least 64.
            Default: 256.

    Raises:
        ConfigError: an argument is out of range, or ``dataset_root`` has other content or cannot be
            written to.
        TypeError: ``transforms`` is neither a list nor None.

    Examples:
        >>> import tempfile
        >>> from paddleseg_autoloss.datasets import SyntheticFundus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = SyntheticFundus(folder + "/fundus", num_train=2, num_val=1, image_size=64)
        ...     print(len(data), data[0]["img"].shape, data[0]["label"].shape)  # doctest: +ELLIPSIS
        20... [INFO]...generating 2 + 1 images of 64 px ...
        2 (3, 64, 64) (64, 64)
    """

    def __init__(
        self,
        dataset_root: str | os.PathLike[str] = "data/synthetic_fundus",
        transforms: list[Any] | None = None,
        mode: str = "train",
        edge: bool = False,
        seed: int = 0,
        num_train: int = 200,
        num_val: int = 60,
        image_size: int = 256,
    ) -> None:
        recipe = _checked_recipe(seed, num_train, num_val, image_size)
        root = _checked_root(dataset_root)
        mode = _checked_mode(mode)
        if not os.path.lexists(root):
            logger.info(
                f"SyntheticFundus: generating {num_train} + {num_val} images of {image_size} px "
                f"(seed {seed}) in {root}"
            )
            _generate(root, recipe)
        _check_recipe(root, recipe)
        super().__init__(
            dataset_root=str(root),
            transforms=[] if transforms is None else transforms,
            mode=mode,
            edge=edge,
        )
