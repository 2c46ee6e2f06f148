"""The scenes of 3DShapes, ray cast: a room of one floor and four walls under the sky, and an object in its middle.

What a ray meets, and how that is lit, depends only on scale, shape and orientation; hues only colour it. So five layers are
drawn for each of these 8 x 4 x 15 scenes, the weights of five colours at each pixel, and each of the 480,000 images is a
weighted sum of colours:

    image[c, p] = sum_l layer[l, p] colour[l, c],    l: floor, wall, object, sky, highlight (white), light in [0, 1]

    layer[l, p] = mean over the rays of a pixel of [the ray meets l] shade
    shade       = AMBIENT + HEADLIGHT max(0, n . to_eye) + LAMP max(0, n . to_lamp) [not in the object's shadow]

Lengths are halves of the room's side; x to the right, y up, z to the viewer at orientation 0; the object stands at the
origin and the camera goes round it. Hues, sky and the values of the factors are the published ones; camera, light and the
proportions of the objects are not published; they were chosen to look similar (docs/journal/data.md).
Source: github.com/deepmind/3d-shapes.
"""

import numpy as np
from jaxtyping import Float

SHAPES = ("cube", "cylinder", "sphere", "capsule")
FACTOR_NAMES = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
FACTOR_SIZES = (10, 10, 10, 8, 4, 15)  # the last one varies fastest
FACTOR_VALUES = (  # value of each class in the published `labels`
    *(np.arange(10) / 10,) * 3,  # turns of the colour circle
    np.linspace(0.75, 1.25, 8),
    np.arange(4.0),
    np.linspace(-30, 30, 15),  # degrees
)
LAYERS = ("floor", "wall", "object", "sky", "highlight")
SIDE = 64  # pixels
SKY = np.array([153, 226, 249], np.float32) / 255

RAYS = 4  # of a pixel, along each side
FOCAL_LENGTH = 77.25  # pixels: 45 degrees
DISTANCE, HEIGHT, PITCH = 1.2, 0.4, np.deg2rad(4.4)  # of the camera, which looks down a little
WALL = 0.64  # height of the walls
TO_LAMP = np.array([-0.55, 0.7, 0.5])
TO_LAMP /= np.linalg.norm(TO_LAMP)
AMBIENT, HEADLIGHT, LAMP, HIGHLIGHT, GLOSS = 0.42, 0.25, 0.5, 0.35, 24
CUBE, CYLINDER, SPHERE, CAPSULE = 0.155, (0.155, 0.34), 0.185, (0.125, 0.42)  # half side; radius and height; radius; both

Array = np.ndarray
Span = tuple[Array, Array]  # where a ray enters and leaves, in its own length; NaN: it passes by


def draw_layers() -> Float[Array, "8 4 15 5 64 64"]:
    """Draws the layers of all scenes, [scale, shape, orientation, layer, H, W], light from 0 to a little above 1."""
    layers = np.empty((*FACTOR_SIZES[3:], len(LAYERS), SIDE, SIDE), dtype=np.float32)
    for k, degrees in enumerate(FACTOR_VALUES[5]):
        eye, rays = _camera(np.deg2rad(degrees))
        room, points = _room(eye, rays)
        near = np.flatnonzero(_comes_near(eye, rays))  # the rays that may meet an object
        floor = np.flatnonzero(room[0])
        floor = floor[_comes_near(points[floor], np.array([TO_LAMP], np.float32))]  # those that may meet its shadow
        for (i, scale), j in ((pair, j) for pair in enumerate(FACTOR_VALUES[3]) for j in range(len(SHAPES))):
            light = room.copy()
            _cast_shadow(light, floor, SHAPES[j], scale, points)
            _draw(light, near, SHAPES[j], scale, eye, rays)
            layers[i, j, k] = light.reshape(len(LAYERS), SIDE, SIDE, -1).mean(-1)
    return layers


def shrink(layers: Float[Array, "*batch 64 64"], side: int) -> Float[Array, "*batch {side} {side}"]:
    """Shrinks layers by the mean of square blocks.

    Args:
        layers: Layers from `draw_layers`.
        side: The new one, pixels; divides 64.
    """
    block = SIDE // side
    return layers.reshape(*layers.shape[:-2], side, block, side, block).mean((-3, -1))


def _camera(angle: float) -> tuple[Array, Array]:
    """Position of the camera [3] and rays through all pixels, unit length: float32 [P, 3], pixel by pixel."""
    sin, cos = np.sin(angle), np.cos(angle)
    right, ahead = np.array([cos, 0, -sin]), np.array([-sin, 0, -cos])
    down = np.array([0, -np.cos(PITCH), 0]) - np.sin(PITCH) * ahead
    ahead = np.cos(PITCH) * ahead + np.array([0, -np.sin(PITCH), 0])
    at = ((np.arange(SIDE * RAYS) + 0.5) / RAYS - SIDE / 2).reshape(SIDE, RAYS) / FOCAL_LENGTH
    rays = ahead + at[:, None, :, None, None] * down + at[None, :, None, :, None] * right  # [row, column, RAYS, RAYS, 3]
    rays = rays.reshape(-1, 3) / np.linalg.norm(rays, axis=-1).reshape(-1, 1)
    return np.array([DISTANCE * sin, HEIGHT, DISTANCE * cos], np.float32), rays.astype(np.float32)


def _room(eye: Array, rays: Array) -> tuple[Array, Array]:
    """The empty room: light of each layer on each ray [L, P], and the point that the ray meets [P, 3]."""
    with np.errstate(divide="ignore"):
        floor = np.where(rays[:, 1] < 0, -eye[1] / rays[:, 1], np.inf)
        sides = (np.sign(rays[:, [0, 2]]) - eye[[0, 2]]) / rays[:, [0, 2]]  # the wall by which it leaves, along x and z
    along, ray = 2 * sides.argmin(1), np.arange(len(rays))
    distance = np.minimum(floor, sides.min(1))
    points = eye + distance[:, None] * rays
    normal = np.zeros_like(rays)
    normal[ray, along] = -np.sign(rays[ray, along])
    normal[floor == distance] = [0, 1, 0]
    shade = _shade(normal, rays)
    met = np.select([floor == distance, points[:, 1] < WALL], [0, 1], 3)
    shade[met == 3] = 1
    light = np.zeros((len(LAYERS), len(rays)), dtype=np.float32)
    light[met, ray] = shade
    return light, points


def _cast_shadow(light: Array, floor: Array, shape: str, scale: float, points: Array) -> None:
    """Removes the lamp's light from the rays `floor` if an object is between their points and the lamp."""
    enters, leaves, _ = _meet(shape, scale, points[floor], np.array([TO_LAMP], np.float32))
    light[0, floor[(enters < leaves) & (leaves > 0)]] -= LAMP * TO_LAMP[1]


def _draw(light: Array, near: Array, shape: str, scale: float, eye: Array, rays: Array) -> None:
    """Draws an object over the room where the rays `near` meet it; nothing is between it and the eye."""
    enters, leaves, towards = _meet(shape, scale, eye, rays[near])
    hit = enters < leaves
    near = near[hit]
    normal = towards(eye + enters[hit, None] * rays[near], hit)
    mirrored = 2 * (normal @ TO_LAMP)[:, None] * normal - TO_LAMP
    gloss = np.where(normal @ TO_LAMP > 0, np.maximum(-(mirrored * rays[near]).sum(1), 0), 0)
    light[:, near] = 0
    light[2, near] = _shade(normal, rays[near])
    light[4, near] = HIGHLIGHT * gloss**GLOSS


def _shade(normal: Array, rays: Array) -> Array:
    return AMBIENT + HEADLIGHT * np.maximum(-(normal * rays).sum(1), 0) + LAMP * np.maximum(normal @ TO_LAMP, 0)


def _comes_near(origin: Array, rays: Array) -> Array:
    """Whether rays [P], or one from each origin [P], meet a ball that holds every object."""
    with np.errstate(invalid="ignore"):
        enters, leaves = _round(origin - np.array([0, 0.26, 0], np.float32), rays, 0.38, [0, 1, 2])
    return enters < leaves


def _meet(shape: str, scale: float, origin: Array, rays: Array):
    """Where rays meet an object: enters [P], leaves [P] (missed unless enters < leaves), and a function.

    It gives the outward normals [M, 3] at points [M, 3] of the surface, for the M rays of a mask [P]. origin: [3], or [P, 3]
    of parallel rays, then given as one.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        match shape:
            case "cube":
                half = scale * CUBE
                spans = [_slab(origin, rays, axis, *((0, 2 * half) if axis == 1 else (-half, half))) for axis in range(3)]
                enters, leaves = _inside_all(spans)
                face = np.stack([span[0] for span in spans], 1).argmax(1)

                def towards(points, mask) -> Array:
                    return np.eye(3)[face[mask]] * -np.sign(rays[mask])

            case "cylinder":
                radius, height = (scale * length for length in CYLINDER)
                round_, flat = _round(origin, rays, radius, [0, 2]), _slab(origin, rays, 1, 0, height)
                enters, leaves = _inside_all([round_, flat])

                def towards(points, mask) -> Array:
                    lid = (flat[0] > round_[0])[mask, None]
                    return np.where(lid, [0, 1, 0] * -np.sign(rays[mask]), points * [1, 0, 1] / radius)

            case "sphere":
                radius = scale * SPHERE
                enters, leaves = _round(origin - np.array([0, radius, 0], np.float32), rays, radius, [0, 1, 2])

                def towards(points, mask) -> Array:
                    return (points - [0, radius, 0]) / radius

            case "capsule":
                radius, height = (scale * length for length in CAPSULE)
                ends = radius, height - radius  # of its axis
                parts = [_round(origin - np.array([0, end, 0], np.float32), rays, radius, [0, 1, 2]) for end in ends]
                parts.append(_inside_all([_round(origin, rays, radius, [0, 2]), _slab(origin, rays, 1, *ends)]))
                parts = [(np.where(a < b, a, np.inf), np.where(a < b, b, -np.inf)) for a, b in parts]
                enters, leaves = np.min([a for a, _ in parts], axis=0), np.max([b for _, b in parts], axis=0)

                def towards(points, mask) -> Array:
                    axis = points * [0, 1, 0]
                    return (points - axis.clip([0, ends[0], 0], [0, ends[1], 0])) / radius

    return enters, leaves, towards


def _slab(origin: Array, rays: Array, axis: int, low: float, high: float) -> Span:
    """Between two planes."""
    ends = [(np.float32(end) - origin[..., axis]) / rays[:, axis] for end in (low, high)]
    return np.minimum(*ends), np.maximum(*ends)


def _round(origin: Array, rays: Array, radius: float, axes: list[int]) -> Span:
    """Inside a sphere around 0, or, with the axes 0 and 2 only, inside an infinite vertical cylinder."""
    origin, rays = origin[..., axes], rays[:, axes]
    a, b, c = (rays * rays).sum(-1), (origin * rays).sum(-1), (origin * origin).sum(-1) - np.float32(radius) ** 2
    root = np.sqrt(b * b - a * c)
    return (-b - root) / a, (-b + root) / a


def _inside_all(spans: list[Span]) -> Span:
    return np.max([enters for enters, _ in spans], axis=0), np.min([leaves for _, leaves in spans], axis=0)
