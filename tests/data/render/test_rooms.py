"""The drawn scenes against ray marching through distance functions, and what each factor does to them."""

import numpy as np
import pytest

from vae_zoo.data.render import rooms
from vae_zoo.data.render.rooms import FACTOR_SIZES, FACTOR_VALUES, SHAPES
from vae_zoo.data.sets.shapes3d import CACHE_NAME
from vae_zoo.data.storage.cache import cached_array

FLOOR, WALL, OBJECT, SKY, HIGHLIGHT = range(5)


@pytest.fixture(scope="module")
def layers(cache_dir):
    """[8, 4, 15, 5, 64, 64]"""
    shape = (*FACTOR_SIZES[3:], 5, 64, 64)
    return cached_array(cache_dir / CACHE_NAME, rooms.draw_layers, shape=shape, dtype=np.float32)


def distance(shape: str, scale: float, points: np.ndarray) -> np.ndarray:
    """Signed distance of points [..., 3] from an object's surface, or a lower bound of it."""
    x, y, z = np.moveaxis(points / scale, -1, 0)
    across = np.hypot(x, z)
    match shape:
        case "cube":
            found = np.max([abs(x), abs(z), abs(y - rooms.CUBE)], axis=0) - rooms.CUBE
        case "cylinder":
            radius, height = rooms.CYLINDER
            found = np.maximum(across - radius, abs(y - height / 2) - height / 2)
        case "sphere":
            found = np.sqrt(across**2 + (y - rooms.SPHERE) ** 2) - rooms.SPHERE
        case "capsule":
            radius, height = rooms.CAPSULE
            found = np.hypot(across, y - np.clip(y, radius, height - radius)) - radius
    return scale * found


def march(shape, scale, origin, rays, steps=300):
    """How far rays go before they meet an object, [P]; infinite where they do not."""
    t = np.zeros(len(rays))
    for _ in range(steps):
        t = np.minimum(t + distance(shape, scale, origin + t[:, None] * rays), 10)
    return np.where(distance(shape, scale, origin + t[:, None] * rays) < 1e-6, t, np.inf)


def random_rays(rng, count=400):
    """From all around, towards the neighbourhood of the object."""
    origin = rng.normal(size=(count, 3))
    origin *= 1.5 / np.linalg.norm(origin, axis=1, keepdims=True)
    rays = rng.uniform([-0.3, -0.1, -0.3], [0.3, 0.6, 0.3], size=(count, 3)) - origin
    return origin, rays / np.linalg.norm(rays, axis=1, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_meet_an_object_where_marching_along_them_does(shape):
    origin, rays = random_rays(np.random.default_rng(0))
    marched = march(shape, 1.25, origin, rays, steps=2000)
    enters, leaves, _ = rooms._meet(shape, 1.25, origin, rays)
    hit = enters < leaves
    assert 0.2 < hit.mean() < 0.9, "the comparison is of both"
    middle = (np.where(hit, enters, 0) + np.where(hit, leaves, 0)) / 2
    sure = abs(distance(shape, 1.25, origin + middle[:, None] * rays)) > 1e-3  # no graze
    np.testing.assert_allclose(marched[hit & sure], enters[hit & sure], atol=1e-5)
    assert np.isinf(marched[~hit]).mean() > 0.99, "but for a ray that grazes it"
    backwards = march(shape, 1.25, origin + 4 * rays, -rays, steps=2000)
    np.testing.assert_allclose(4 - backwards[hit & sure], leaves[hit & sure], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_are_the_gradient_of_the_distance(shape):
    origin, rays = random_rays(np.random.default_rng(1))
    enters, leaves, towards = rooms._meet(shape, 0.8, origin, rays)
    hit = enters < leaves
    points, normals = (origin + enters[:, None] * rays)[hit], towards((origin + enters[:, None] * rays)[hit], hit)
    sides = [distance(shape, 0.8, points + step) for step in np.concatenate([np.eye(3), -np.eye(3)])[:, None] * 1e-6]
    gradient = (np.array(sides[:3]) - np.array(sides[3:])).T / 2e-6
    smooth = abs(np.linalg.norm(gradient, axis=1) - 1) < 1e-4  # not on an edge
    assert smooth.mean() > 0.95
    np.testing.assert_allclose(normals[smooth], gradient[smooth], atol=1e-4)


@pytest.mark.parametrize("orientation", [0, 7, 12])
def test_objects_cover_the_pixels_whose_rays_march_into_them_and_their_shadow_lies_where_the_lamp_is_hidden(
    layers, orientation
):
    eye, rays = rooms._camera(np.deg2rad(FACTOR_VALUES[5][orientation]))
    some = np.random.default_rng(2).permutation(64 * 64)[:500]
    rays = rays.reshape(64 * 64, -1, 3)[some]  # [pixels, rays, 3]
    hit = np.isfinite(march("capsule", 1.25, eye, rays.reshape(-1, 3))).reshape(rays.shape[:2])
    drawn = layers[7, 3, orientation].reshape(5, -1)[:, some]
    assert 0.03 < hit.mean() < 0.2
    assert ((drawn[OBJECT] > 0) == hit.any(1)).all()
    floor = (rays[..., 1] < 0).all(1) & ~hit.any(1) & (drawn[WALL] == 0)
    points = eye - (eye[1] / rays[floor][..., 1:2]) * rays[floor]
    lamp = np.broadcast_to(rooms.TO_LAMP, points.shape).reshape(-1, 3)
    hidden = np.isfinite(march("capsule", 1.25, points.reshape(-1, 3), lamp)).reshape(points.shape[:2]).mean(1)
    bright = rooms.AMBIENT - rooms.HEADLIGHT * rays[floor][..., 1].mean(1) + rooms.LAMP * rooms.TO_LAMP[1] * (1 - hidden)
    assert 0.02 < hidden.mean() < 0.3
    assert np.isclose(drawn[FLOOR, floor], bright, atol=1e-3).mean() > 0.99, "but for a ray at the rim of the shadow"


def test_the_view_is_that_of_the_published_pictures(layers):
    """Seen frontally: sky to row 17.5, wall to row 40, floor; the object in the middle on about row 55."""
    front = layers[4, 1, 7]
    column = front[:, :, 10] > 0
    assert column[SKY, :17].all() and column[WALL, 18:39].all() and column[FLOOR, 41:].all()
    assert not column[SKY, 19:].any() and not column[WALL, :16].any() and not column[FLOOR, :39].any()
    rows, columns = np.nonzero(front[OBJECT])
    assert 52 <= rows.max() <= 56 and columns.min() + columns.max() == 63


def test_a_corner_of_the_room_enters_as_the_camera_turns(layers):
    """Where two walls meet, their light jumps; frontally none is within the middle of the picture."""
    row = layers[0, 2, :, WALL, 22]  # above the object: [15, 64]
    jump = abs(np.diff(row, axis=1))[:, 2:-2]
    assert jump[7].max() < 0.01 < jump[0].max() and jump[14].max() > 0.1
    left, right = jump[14].argmax(), jump[0].argmax()
    assert left < 20 and 40 <= right


def test_turning_the_other_way_mirrors_what_is_seen_but_not_the_light(layers):
    mirrored = layers[:, :, ::-1, :, :, ::-1]
    for layer in (FLOOR, WALL, OBJECT, SKY):
        assert ((layers[:, :, :, layer] > 0) == (mirrored[:, :, :, layer] > 0)).mean() > 0.9999, "rays on an edge"
    assert abs(layers - mirrored)[:, :, :, :3].max() > 0.3


def test_objects_grow_with_the_scale_and_differ_in_shape(layers):
    area = (layers[:, :, :, OBJECT] > 0).sum((-1, -2))  # [8, 4, 15]
    assert (np.diff(area, axis=0) > 0).all()
    silhouettes = layers[4, :, 7, OBJECT] > 0
    pairs = [(a & b).sum() / (a | b).sum() for i, a in enumerate(silhouettes) for b in silhouettes[:i]]
    assert max(pairs) < 0.9


def test_the_room_far_from_the_object_does_not_know_of_it(layers):
    """Sky and the upper wall are the same for every scale and shape."""
    upper = layers[..., :15, :]
    assert (upper == upper[:1, :1]).all()


def test_only_smooth_objects_shine(layers):
    brightest = layers[4, :, 7, HIGHLIGHT].max((-1, -2))
    assert (brightest[2:] > 0.2).all() and (layers[..., [OBJECT, HIGHLIGHT], :, :] >= 0).all()


def test_the_cache_holds_what_is_drawn_now(layers):
    """One orientation anew; if this fails without a change of the version in CACHE_NAME, a cache would be read in vain."""
    eye, rays = rooms._camera(np.deg2rad(FACTOR_VALUES[5][3]))
    room, points = rooms._room(eye, rays)
    light = room.copy()
    everything = np.flatnonzero(room[FLOOR])
    rooms._cast_shadow(light, everything, "cube", 1.25, points)
    rooms._draw(light, np.arange(len(rays)), "cube", 1.25, eye, rays)
    anew = light.reshape(5, 64, 64, -1).mean(-1)
    np.testing.assert_allclose(layers[7, 0, 3], anew, atol=1e-5)


def test_a_smaller_picture_is_the_mean_of_blocks(layers):
    one = layers[1, 2, 3]
    small = rooms.shrink(one, 32)
    assert small.shape == (5, 32, 32)
    np.testing.assert_allclose(small[:, 3, 30], one[:, 6:8, 60:62].mean((1, 2)), rtol=1e-6)
    assert np.array_equal(rooms.shrink(one, 64), one)
