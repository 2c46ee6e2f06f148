"""The drawn faces: their addresses, what each factor does to the pixels, and that the task is neither trivial nor blind."""

import colorsys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vae_zoo.data.render import cartoon
from vae_zoo.data.render.cartoon import FACTORS, IDENTITY_FACTORS, NAMES, STYLE_FACTORS
from vae_zoo.metrics import probes

RANGES = {r.name: r for r in FACTORS}


def faces(identity, image, **settings):
    """Pictures and factors of these images."""
    identity, image = np.broadcast_arrays(np.asarray(identity), np.asarray(image))
    factors = cartoon.factors(identity, image, **settings)
    return cartoon.render(factors, cartoon.noise_key(identity, image)), factors


def column(factors, name):
    return factors[:, NAMES.index(name)]


def neutral(count=1, identity=25):
    """The factors of one person looking straight ahead, [count, F]."""
    return cartoon.factors(np.array([identity]), np.array([0]), strength=0.0).repeat(count, 0)


# ---- addresses ------------------------------------------------------------------------------------------------------


def test_an_image_is_the_same_to_the_bit_alone_in_a_batch_and_in_any_order():
    identity, image = np.arange(50) % 7, np.arange(50) // 7
    images, factors = faces(identity, image)
    again, _ = faces(identity[::-1], image[::-1])
    assert np.array_equal(images, again[::-1])
    for n in (0, 17, 49):
        alone, its_factors = faces(identity[[n]], image[[n]])
        assert np.array_equal(alone[0], images[n]) and np.array_equal(its_factors[0], factors[n])
    assert len({picture.tobytes() for picture in images}) == 50


def test_identity_factors_are_those_of_the_identity_and_style_factors_of_the_image():
    factors = faces(np.arange(40).repeat(5), np.tile(np.arange(5), 40))[1].reshape(40, 5, -1)
    who, how = np.split(factors, [len(IDENTITY_FACTORS)], axis=2)
    assert (who == who[:, :1]).all() and len(np.unique(who[:, 0], axis=0)) == 40
    assert len(np.unique(how.reshape(200, -1), axis=0)) == 200
    assert (IDENTITY_FACTORS, STYLE_FACTORS) == (NAMES[:19], NAMES[19:])


def test_roots_draw_other_people_in_other_styles():
    one, other = (cartoon.factors(np.arange(9), np.arange(9), root=root) for root in (0, 1))
    drawn = [name for name in NAMES if RANGES[name].kind != "categorical"]
    assert all((column(one, name) != column(other, name)).all() for name in drawn)
    keys = [cartoon.noise_key(np.arange(9), np.arange(9), root=root) for root in (0, 1)]
    assert len(set(np.concatenate(keys).tolist())) == 18


def test_factors_are_uniform_in_their_ranges_and_independent():
    factors = cartoon.factors(np.arange(4000), np.zeros(4000, int))
    for name, values in zip(NAMES, factors.T):
        low, high = (0, 1) if RANGES[name].kind == "circular" else (RANGES[name].low, RANGES[name].high)
        assert values.min() >= low and values.max() <= high
        if RANGES[name].kind == "categorical":
            share = np.bincount(values.astype(int), minlength=int(high)) / 4000
            assert len(share) == RANGES[name].size and abs(share - 1 / len(share)).max() < 0.03
        else:
            quartiles = np.quantile((values - low) / (high - low), [0.01, 0.25, 0.5, 0.75, 0.99])
            assert abs(quartiles - [0.01, 0.25, 0.5, 0.75, 0.99]).max() < 0.03
    correlation = np.corrcoef(factors.T) - np.eye(len(NAMES))
    assert abs(correlation).max() < 5 / 4000**0.5


def test_noise_is_standard_normal_and_different_in_every_image_and_pixel():
    noise = cartoon._normal(cartoon.noise_key(np.zeros(20, int), np.arange(20)), 12_288)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01 and abs((noise**4).mean() - 2.7) < 0.05
    assert abs(np.corrcoef(noise) - np.eye(20)).max() < 0.05
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.01


# ---- settings -------------------------------------------------------------------------------------------------------


def test_style_strength_shrinks_every_style_factor_around_its_neutral_value_and_no_identity_factor():
    images = np.arange(500)
    whole, half, none = (cartoon.factors(images, images, strength=s) for s in (1.0, 0.5, 0.0))
    assert np.array_equal(whole[:, :19], half[:, :19]) and np.array_equal(whole[:, :19], none[:, :19])
    for name in STYLE_FACTORS:
        middle = RANGES[name].neutral
        assert np.allclose(column(none, name), middle)
        if RANGES[name].kind == "circular":  # the way round the circle that is shorter
            ways = [(column(values, name) - middle + 0.5) % 1 - 0.5 for values in (half, whole)]
            assert np.allclose(ways[0], ways[1] / 2, atol=1e-5)
        elif RANGES[name].kind == "continuous":
            assert np.allclose(column(half, name) - middle, (column(whole, name) - middle) / 2, atol=1e-5)


@pytest.mark.parametrize("confound", [0.0, 0.3, 1.0])
def test_confound_is_the_share_of_images_whose_background_is_the_identitys(confound):
    identity, image = np.arange(200).repeat(20), np.tile(np.arange(20), 200)
    plain, factors = (cartoon.factors(identity, image, confound=c) for c in (0.0, confound))
    hue = column(factors, "style_background_hue")
    changed = hue != column(plain, "style_background_hue")
    assert abs(changed.mean() - confound) < 0.04
    own = [np.unique(hue[(identity == i) & changed]) for i in range(200)]
    assert all(len(values) <= 1 for values in own)
    assert confound == 0 or len(np.unique(np.concatenate(own))) > 190
    others = [i for i, name in enumerate(NAMES) if name != "style_background_hue"]
    assert np.array_equal(factors[:, others], plain[:, others])


def test_the_held_out_pair_is_curly_hair_with_a_beard():
    factors = cartoon.factors(np.arange(3000), np.zeros(3000, int))
    held_out = cartoon.is_held_out(factors)
    curly, beard = column(factors, "id_hair_style") == 4, column(factors, "id_beard") == 1
    assert np.array_equal(held_out, curly & beard) and 0.06 < held_out.mean() < 0.11


# ---- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_factor_changes_the_picture(name):
    """From one end of its range to the other (a quarter of the circle), all else equal: by 1 % of white in some way."""
    pair, r = neutral(2), RANGES[name]
    ends = (r.low, r.low + 0.25) if r.kind == "circular" else (r.low, r.high - (r.kind == "categorical"))
    pair[:, NAMES.index(name)] = ends
    if name == "style_background_hue":
        pair[:, NAMES.index("id_hair_hue")] = 0.5
    images = cartoon.render(pair, np.array([5, 5], np.uint64)).astype(int)
    difference = abs(images[0] - images[1]).max(0)  # [64, 64]
    assert (difference > 12).sum() >= 10, f"{(difference > 12).sum()} pixels"


@pytest.mark.parametrize("name", [name for name in NAMES if RANGES[name].kind == "circular"])
def test_circular_factors_end_where_they_begin(name):
    pair = neutral(2)
    pair[:, NAMES.index(name)] = (0, 1)
    images = cartoon.render(pair).astype(int)
    assert abs(images[0] - images[1]).max() <= 1


def test_moving_the_head_moves_the_pixels():
    four = neutral(4)
    four[:, NAMES.index("style_dx")] = (-6, 6, 0, 0)
    four[:, NAMES.index("style_dy")] = (0, 0, -6, 6)
    left, right, up, down = (image.astype(int) for image in cartoon.render(four))
    face = (slice(None), slice(18, 46), slice(20, 44))  # the same background on both sides would hide a mistake
    assert abs(left[:, 12:46, 14:38] - right[:, 12:46, 26:50]).max() <= 1
    assert abs(up[:, 12:38, 20:44] - down[:, 24:50, 20:44]).max() <= 1
    assert abs(left[face] - right[face]).max() > 50


def test_light_from_the_right_brightens_the_right_half_and_mirrors_that_from_the_left():
    pair = neutral(2)
    pair[:, NAMES.index("style_light_azimuth")] = (-60, 60)
    left, right = cartoon.render(pair)[:, 0, 34:37, 22:42].astype(float).mean(1)  # [20] across the cheeks
    assert right[10:].mean() > 1.3 * right[:10].mean()
    assert np.allclose(left, right[::-1], atol=3)


def test_noise_has_the_deviation_it_says():
    flat = neutral(2)
    flat[:, NAMES.index("style_noise")] = (0, 0.02)
    clean, noisy = cartoon.render(flat, np.array([1, 1], np.uint64)).astype(float) / 255
    inside = (clean > 0.1) & (clean < 0.9)
    assert abs((noisy - clean)[inside].std() - 0.02) < 0.002
    assert np.array_equal(cartoon.render(flat)[0], cartoon.render(flat)[1])  # without a key there is none


def scores(factors, names):
    """{name: what a ridge or logistic regression reads of every fourth picture, fitted on the others}."""
    x = cartoon.render(factors, np.arange(len(factors)).astype(np.uint64)).reshape(len(factors), -1).astype(np.float32)
    pca = PCA(250, svd_solver="randomized", iterated_power=1, random_state=0)
    x, test = pca.fit_transform(x), np.arange(len(x)) % 4 == 0
    found = {}
    for name in names:
        y, r = column(factors, name), RANGES[name]
        found[name] = probes.probe((x[~test], y[~test]), (x[test], y[test]), kind=r.kind, period=r.period, hidden=None)
    return found


@pytest.mark.slow
def test_identity_factors_are_read_from_pixels():
    """Of people who look straight ahead. Saturation is no linear function of pixels: see the next test; nor is the thickness
    of lips, which are lighter than the skin in one person and darker in another."""
    found = scores(cartoon.factors(np.arange(1600), np.zeros(1600, int), strength=0.0), IDENTITY_FACTORS)
    assert {name for name, score in found.items() if score < 0.5} == {"id_hair_saturation", "id_lip_thickness"}
    assert found["id_lip_thickness"] > 0.25


POSE = ["yaw", "roll", "pitch", "dx", "dy", "scale", "background_hue", "background_angle"]
LOOK = ["light_azimuth", "light_intensity", "ambient", "smile", "mouth_open", "eye_open", "brow_raise", "background_texture"]


@pytest.mark.slow
@pytest.mark.parametrize("names", [POSE, LOOK], ids=["pose", "look"])
def test_style_factors_are_read_from_pixels(names):
    """Of one person, with the other half of them neutral; noise has a test of its own."""
    factors, drawn = neutral(1000, identity=0), cartoon.factors(np.zeros(1000, int), np.arange(1000))
    for name in (names := [f"style_{name}" for name in names]):
        factors[:, NAMES.index(name)] = column(drawn, name)
    assert {name for name, score in scores(factors, names).items() if score < 0.5} == set()


def test_the_crown_has_the_hue_saturation_and_brightness_of_the_hair():
    """Saturation is no linear function of pixels, so it is computed here."""
    images, factors = faces(np.arange(300), 0, strength=0.0)
    crown = images[:, :, 12:14, 31:33].mean((2, 3)) / 255  # [300, 3]
    dim = crown.max(1) < 0.95  # else the light has cut its colour off
    crown, factors = crown[dim], factors[dim]
    saturation = 1 - crown.min(1) / crown.max(1)
    assert np.corrcoef(saturation, column(factors, "id_hair_saturation"))[0, 1] > 0.95
    assert np.corrcoef(crown.max(1), column(factors, "id_hair_value"))[0, 1] > 0.95
    hue = [colorsys.rgb_to_hsv(*colour)[0] for colour in crown]
    assert np.median(abs((hue - column(factors, "id_hair_hue") + 0.5) % 1 - 0.5)) < 0.01


def test_people_are_not_told_apart_by_their_pixels():
    """Nearest neighbour among 50 identities: less than 30 % are found, else the task would be trivial."""
    assert found(faces(np.arange(50).repeat(2), np.tile([0, 1], 50))[0].reshape(100, -1)) < 0.3


def test_confounded_people_are_told_apart_by_the_hue_of_their_background():
    """What is constant in a group is content, whatever it is called."""
    shares = []
    for confound in (0.0, 1.0):
        images, _ = faces(np.arange(50).repeat(2), np.tile([0, 1], 50), confound=confound)
        corners = images[:, :, :8, [0, 1, 2, 3, -4, -3, -2, -1]].mean((2, 3))  # [100, 3]
        shares.append(found(corners / np.linalg.norm(corners, axis=1, keepdims=True)))
    assert shares[0] < 0.2 and shares[1] > 0.5


def found(x):
    """Share of the pairs, rows 2n and 2n + 1, whose members are nearest to each other among all second members."""
    x = x.astype(np.float64)
    first, second = x[::2], x[1::2]
    distance = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return (distance.argmin(1) == np.arange(len(first))).mean()
