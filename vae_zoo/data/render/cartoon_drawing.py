"""Draws cartoon faces from their factors: shapes painted from back to front, a whole batch at a time, in numpy.

A shape is a signed distance d in pixels, negative inside, and covers clip(1/2 - d, 0, 1) of a pixel. This
anti-aliases edges without supersampling. (u, v) are coordinates that rotate with the head, in head heights, v down; the head
extends from v = -1/2 to 1/2. Features of the face move as on an ellipsoid when the head turns or nods, and the same
ellipsoid is lit (Lambert).

A value of one image is [B, 1, 1], a plane [B, 64, 64], a colour [B, 3, 1, 1], the canvas [B, 3, 64, 64].
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Array = np.ndarray
SIDE = 64  # pixels


class Hair(NamedTuple):
    """A hair style, in head heights.

    Behind the head an ellipse, with curls all around or spikes on top, and locks down to v = lock_end; in front, everything
    above the hairline v = fringe + slope u' + bend u'^2, u' = -1 and 1 at the ears.
    """

    back_v: float
    back_width: float  # half of it, beyond the head's
    back_height: float  # half of it
    fringe: float
    slope: float
    bend: float
    lock_end: float = 0.0
    lock_width: float = -0.1  # beyond the head
    curls: float = 0.0
    spikes: float = 0.0
    num_bumps: float = 1.0  # of curls or spikes, around the head


HAIR = {
    "short": Hair(-0.10, 0.02, 0.46, -0.38, 0.0, 0.34),
    "parted": Hair(-0.10, 0.03, 0.48, -0.34, 0.2, 0.16),
    "bob": Hair(-0.06, 0.09, 0.52, -0.27, 0.0, 0.06, lock_end=0.36, lock_width=0.09),
    "long": Hair(-0.06, 0.06, 0.52, -0.40, 0.0, 0.50, lock_end=0.80, lock_width=0.09),
    "curly": Hair(-0.14, 0.10, 0.48, -0.32, 0.0, 0.16, lock_end=0.10, lock_width=0.02, curls=0.06, num_bumps=7),
    "spiky": Hair(-0.14, 0.00, 0.46, -0.38, 0.0, 0.24, spikes=0.12, num_bumps=13),
}
HAIR_STYLES, TEXTURES = tuple(HAIR), ("plain", "stripes", "checks", "dots")
# light to dark
_SKIN = np.array([[255, 226, 202], [243, 199, 158], [212, 154, 108], [158, 100, 64], [98, 60, 42]], np.float32) / 255
_WHITE, _BLACK, _SHIRT = (np.array(c, np.float32).reshape(1, 3, 1, 1) for c in ([0.98] * 3, [0.06] * 3, [0.36, 0.4, 0.48]))
HEAD = 42.0  # pixels of a head's height at scale 1
EYES, MOUTH = -0.05, 0.29  # their v
_X = (np.arange(SIDE, dtype=np.float32) + 0.5 - SIDE / 2)[None, None, :]  # pixels from the centre of the picture
_Y = (np.arange(SIDE, dtype=np.float32) + 0.5 - SIDE / 2)[None, :, None]


def draw(factors: Mapping[str, Float[Array, " B"]]) -> Float[Array, "B 3 64 64"]:
    """Draws pictures, float32, 0 = black and 1 = white, not clipped.

    Args:
        factors: {name: values}; names and units are those of vae_zoo.data.render.cartoon.
    """
    return _Face({name: np.array(value, np.float32)[:, None, None] for name, value in factors.items()}).paint()


class _Face:
    """One batch of faces while it is painted."""

    def __init__(self, f: Mapping[str, Array]):
        self.f = f
        self.yaw, self.pitch = (np.deg2rad(f[f"style_{name}"]) for name in ("yaw", "pitch"))
        self.size = HEAD * f["style_scale"]  # pixels of a head's height
        self.a = f["id_head_aspect"] / 2  # half of the head's width; that of its height is 1/2
        self.x, self.y = _X - f["style_dx"], _Y - f["style_dy"]  # pixels from the centre of the head
        self.cos, self.sin = (turn(np.deg2rad(f["style_roll"])) for turn in (np.cos, np.sin))
        self.u = (self.cos * self.x + self.sin * self.y) / self.size
        self.v = (self.cos * self.y - self.sin * self.x) / self.size
        self.nod = -0.35 * np.sin(self.pitch)  # downward shift of the features of the face
        self.radius = np.sqrt(self.u**2 + self.v**2) + 1e-6
        self.edge = self._edge()
        styles = np.array(list(HAIR.values()), np.float32)[f["id_hair_style"].astype(int)]  # [B, 1, 1, fields]
        self.style = Hair(*np.moveaxis(styles, -1, 0))
        steps = np.linspace(0, 1, len(_SKIN))
        self.skin = np.stack([np.interp(f["id_skin_tone"], steps, c) for c in _SKIN.T], axis=1).astype(np.float32)
        self.hair = _hsv(f["id_hair_hue"], f["id_hair_saturation"], f["id_hair_value"])
        self.canvas = self._background()
        self.lit = np.zeros_like(self.u)  # share of each pixel that the lamp shines on

    def paint(self) -> Array:
        parts = (self._back_hair, self._body, self._head, self._eyes, self._nose, self._mouth, self._front_hair, self._light)
        for part in parts:
            part()
        return self.canvas

    def cover(self, d: Array) -> Array:
        """Share of each pixel inside a shape.  d: signed distance in head heights."""
        return np.clip(0.5 - d * self.size, 0, 1)

    def put(self, cover: Array, colour: Array, lit: float = 0.0) -> None:
        """Paints over the canvas. lit: share of the lamp's light on the shape; pixels keep a larger earlier share."""
        step = colour - self.canvas
        step *= cover[:, None]
        self.canvas += step
        if lit:
            np.maximum(self.lit, np.float32(lit) * cover, out=self.lit)

    def on_face(self, u: Array | np.float32, v: float | Array, rise: float = 0.0) -> tuple[Array, Array, Array]:
        """Projects a point of the face as seen from the front; also its apparent width.  rise: above the ellipsoid."""
        angle = np.arcsin(np.clip(u / self.a, -0.98, 0.98))
        squeeze = np.clip(np.cos(angle + self.yaw) / np.cos(angle), 0.3, 1.25)
        return (self.a + rise) * np.sin(angle + self.yaw), v + self.nod, squeeze

    def _edge(self) -> Array:
        """Distance of the head's outline from its centre, in the direction of each pixel.

        The outline is a superellipse, whose upper half has the exponent 2.2 and whose lower half that of the jaw.
        """
        n = np.where(self.v > 0, self.f["id_jaw"], np.float32(2.2))
        logs = [np.log(np.abs(x) + np.float32(1e-9)) for x in (self.u / self.a, 2 * self.v)]
        return self.radius * np.exp(-np.log(np.exp(n * logs[0]) + np.exp(n * logs[1])) / n)  # 3 times as fast as powers

    # ---- parts, from back to front ----------------------------------------------------------------------------------

    def _background(self) -> Array:
        f = self.f
        angle = 2 * np.pi * f["style_background_angle"]
        along, across = (np.cos(angle) * _X + np.sin(angle) * _Y), (np.cos(angle) * _Y - np.sin(angle) * _X)
        p, q = _triangle(along / 11), _triangle(across / 11)
        planes = {"stripes": _hard(p), "checks": _hard(p) * _hard(q), "dots": _hard(p + q - 0.9)}
        pattern = sum((f["style_background_texture"] == TEXTURES.index(name)) * plane for name, plane in planes.items())
        colour = _hsv(f["style_background_hue"], np.float32(0.5), np.float32(0.72))
        return colour * (1 + 0.28 * along / (SIDE / 2) + 0.13 * pattern)[:, None]

    def _back_hair(self) -> None:
        style = self.style
        u, v = self.u + 0.1 * np.sin(self.yaw), self.v - style.back_v
        bumps = _triangle(style.num_bumps * np.arctan2(u, v) / (2 * np.pi))
        d = _ellipse(u, v, self.a + style.back_width, style.back_height)
        d -= style.curls * np.abs(bumps) + style.spikes * bumps * np.clip(-8 * v - 1, 0, 1)
        locks = np.maximum(np.abs(u) - self.a - style.lock_width, np.maximum(self.v - style.lock_end, -0.1 - self.v))
        self.put(self.cover(np.minimum(d, locks)), 0.8 * self.hair, lit=0.7)

    def _body(self) -> None:
        x, y = self.x / self.size, self.y / self.size
        shirt = _ellipse(x, y - 1.15, 0.75, 0.48)
        neck = np.maximum(np.abs(x) - 0.4 * self.a - 0.02, -y)
        collar = _ellipse(x, y - 0.62, 0.4 * self.a + 0.06, 0.12)
        self.put(self.cover(shirt), _SHIRT, lit=0.3)
        self.put(self.cover(np.where(y > 0.62, collar, neck)), 0.8 * self.skin, lit=0.4)

    def _head(self) -> None:
        for side in (-1, 1):
            ear = _ellipse(self.u - side * self.a + 0.12 * np.sin(self.yaw), self.v - 0.03 - self.nod / 2, 0.06, 0.09)
            self.put(self.cover(ear), 0.9 * self.skin, lit=1.0)
        self.put(self.cover(self.radius - self.edge), self.skin, lit=1.0)
        u = (self.u - self.a * np.sin(self.yaw)) / self.a
        beard = np.maximum(self.radius - 1.04 * self.edge, 0.23 - 0.15 * u**2 + self.nod - self.v)
        self.put(self.cover(beard) * self.f["id_beard"], 0.7 * self.hair, lit=1.0)

    def _eyes(self) -> None:
        for side in (-1, 1):
            self._eye(side)

    def _eye(self, side: int) -> None:
        f = self.f
        u, v, squeeze = self.on_face(side * f["id_eye_spacing"] * self.a, EYES)
        u, v = (self.u - u) / squeeze, self.v - v
        width = 1.2 * f["id_eye_size"]
        height = width * f["id_eye_aspect"]
        rim = 0.9 / self.size
        inside = self.cover(_ellipse(u, v, width, height))
        self.put(self.cover(_ellipse(u, v + 0.4 * rim, width + rim, height + rim)), 0.35 * self.skin)
        self.put(inside, _WHITE)
        iris = 0.66 * width
        away = np.sqrt(u**2 + v**2)
        self.put(inside * self.cover(away - iris), _hsv(f["id_iris_hue"], np.float32(0.75), np.float32(0.75)))
        self.put(inside * self.cover(away - 0.45 * iris), _BLACK)
        self.put(inside * self.cover(np.sqrt((u + 0.35 * iris) ** 2 + (v + 0.35 * iris) ** 2) - 0.25 * iris), _WHITE)
        # the lid covers a part of the eye, whose outline remains visible
        self.put(np.minimum(inside, self.cover(v - height * (1 - 2 * f["style_eye_open"]))), 0.75 * self.skin)
        # the brow: a thick line, with the outer end up if the slant is positive
        slant = side * np.tan(np.deg2rad(f["id_brow_slant"]))
        lift = v + 0.175 + 0.05 * f["style_brow_raise"] + slant * u
        d = np.maximum(np.abs(lift) - f["id_brow_thickness"] / HEAD / 2, np.abs(u) - 0.14)
        self.put(self.cover(d), 0.55 * self.hair)

    def _nose(self) -> None:
        length, width = self.f["id_nose_length"], self.f["id_nose_width"]
        root_u, root_v, _ = self.on_face(np.float32(0), EYES)
        tip_u, tip_v, squeeze = self.on_face(np.float32(0), EYES + length, rise=0.07)
        u, v = (self.u - tip_u) / squeeze, self.v - tip_v
        along = np.clip((self.v - root_v) / (tip_v - root_v), 0, 1)  # 0 at the root, 1 at the tip
        middle = self.u - root_u - along * (tip_u - root_u)
        ridge = np.maximum(np.abs(middle) - 0.35 * width * along, np.maximum(root_v - self.v, self.v - tip_v))
        self.put(self.cover(ridge), 1.2 * self.skin)
        self.put(self.cover(_ellipse(u, v, width, 0.07)), 0.4 * self.skin)
        self.put(self.cover(_ellipse(u, v + 0.02, 0.8 * width, 0.055)), 1.2 * self.skin)

    def _mouth(self) -> None:
        f = self.f
        u, v, squeeze = self.on_face(np.float32(0), MOUTH)
        width = f["id_mouth_width"] / 2
        t = (self.u - u) / squeeze / width  # -1 and 1 in the corners
        t2 = np.minimum(t * t, 1)
        v = self.v - v - 0.18 * (f["style_smile"] + 0.1) * (0.4 - t2)
        gap = 0.06 * f["style_mouth_open"] * (1 - t2)
        lip = f["id_lip_thickness"] / HEAD / 2 * (1 - 0.8 * t2 * t2)
        end = (np.abs(t) - 1) * width
        colour = 0.7 * _hsv(f["id_lip_hue"], np.float32(0.7), np.float32(0.8)) + 0.25 * self.skin
        self.put(self.cover(np.maximum(np.abs(v) - gap - lip, end)), colour)
        self.put(self.cover(np.maximum(np.abs(v) - gap - 0.2 / HEAD, end)), 0.3 * colour)
        self.put(self.cover(np.maximum(np.abs(v + 0.5 * gap) - 0.45 * gap + 0.3 / HEAD, end)), _WHITE)

    def _front_hair(self) -> None:
        u = self.u / self.a - 0.5 * np.sin(self.yaw)
        line = self.style.fringe + self.style.slope * u + self.style.bend * u * u + 0.5 * self.nod
        self.put(self.cover(np.maximum(self.radius - 1.06 * self.edge, self.v - line)), self.hair, lit=1.0)

    def _light(self) -> None:
        f = self.f
        azimuth = np.deg2rad(f["style_light_azimuth"])
        x, y, z = 0.9 * np.sin(azimuth), np.float32(-0.436), 0.9 * np.cos(azimuth)  # 26 degrees from above
        lamp_u, lamp_v = self.cos * x + self.sin * y, self.cos * y - self.sin * x
        nu, nv = self.u / (self.a + 0.08), self.v / 0.62
        flat = nu * nu + nv * nv
        towards = (lamp_u * nu + lamp_v * nv) / np.sqrt(np.maximum(flat, 1)) + z * np.sqrt(np.maximum(1 - flat, 0))
        shade = (f["style_ambient"] + f["style_light_intensity"] * np.maximum(towards, 0)) / 1.15
        self.canvas *= (1 + self.lit * (shade - 1))[:, None]


def _ellipse(x: Array, y: Array, rx: Array | float, ry: Array | float) -> Array:
    """Signed distance, to first order at the outline."""
    x, y = x / rx, y / ry
    k = np.sqrt(x * x + y * y)
    return k * (k - 1) / (np.sqrt((x / rx) ** 2 + (y / ry) ** 2) + np.float32(1e-6))


def _triangle(x: Array) -> Array:
    """A wave of period 1 between -1 and 1, 1 at 0."""
    return 4 * np.abs(x - np.floor(x) - np.float32(0.5)) - 1


def _hard(x: Array) -> Array:
    return np.clip(3 * x, -1, 1)


def _hsv(hue: Array, saturation: Array | np.float32, value: Array | np.float32) -> Array:
    """[B, 1, 1] each, hue in turns -> [B, 3, 1, 1] red, green, blue."""
    k = (np.array([5, 3, 1], np.float32).reshape(1, 3, 1, 1) + 6 * hue[:, None]) % 6
    saturation, value = (np.broadcast_to(x, hue.shape)[:, None] for x in (saturation, value))
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
