import numpy as np
import pytest
import torch
from scipy import stats

from vae_zoo.distributions import noise
from vae_zoo.utils.splitmix import mix

DRAWS = {"normal": (noise.normal, stats.norm.cdf), "uniform": (noise.uniform, stats.uniform.cdf)}
either = pytest.mark.parametrize("draw", [noise.normal, noise.uniform], ids=["normal", "uniform"])


def per_image(draw, index, *, seed=0, size=5, skip=0, **options):
    """A draw for these images: the one after `skip` others of the context."""
    like = torch.empty(len(index), size)
    with noise.per_image(torch.as_tensor(index), seed):
        for _ in range(skip):
            draw(like)
        return draw(like, **options)


# ---- evaluation: noise of the image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(("images", "size", "samples"), [(100_000, 1, 1), (1, 100_000, 1), (1, 1, 100_000), (50, 40, 50)])
def test_noise_of_images_has_the_distribution_it_claims(name, images, size, samples):
    draw, cdf = DRAWS[name]
    values = per_image(draw, range(images), size=size, sample_shape=(samples,)).double().flatten()
    # 100,000 draws tell a deviation of 0.006 in the cdf (p = 0.001); the second line finds repeats
    assert stats.kstest(values.numpy(), cdf).pvalue > 1e-3
    assert len(values.unique()) > 0.98 * len(values)  # float32 alone makes a few collide


def test_normal_noise_is_the_quantile_of_the_uniform():
    """To the last digits, which no test of a sample can see."""
    u, z = (per_image(draw, range(1000)).double().numpy() for draw in (noise.uniform, noise.normal))
    middle = (u > 0.01) & (u < 0.99)  # beyond it float32 rounds u too coarsely
    np.testing.assert_allclose(z[middle], stats.norm.ppf(u[middle]), atol=1e-5)


@either
def test_noise_is_independent_across_images_draws_positions_samples_and_seeds(draw):
    size, index = 6, torch.arange(10_000)
    base = per_image(draw, index, size=size, sample_shape=(2,)).double()
    others = {
        "next image": base[0].roll(1, 0),
        "image far away": base[0].roll(4096, 0),
        "next position": base[0].roll(1, 1),
        "next sample": base[1],
        "next draw": per_image(draw, index, size=size, skip=1).double(),
        "next seed": per_image(draw, index, size=size, seed=1).double(),
        "draw of the next seed": per_image(draw, index, size=size, seed=1, skip=1).double(),
    }
    for name, other in others.items():
        for power in (1, 2):  # squares: neither location nor scale may be shared
            pair = torch.stack([base[0].flatten() ** power, other.flatten() ** power])
            assert abs(pair.corrcoef()[0, 1]) < 4 / 60_000**0.5, name


def test_pairs_of_neighbouring_images_fill_the_unit_square_evenly():
    u = per_image(noise.uniform, range(40_000), size=2).numpy()
    for first, second in [(u[:-1, 0], u[1:, 0]), (u[:, 0], u[:, 1])]:
        counts = np.histogram2d(first, second, bins=16, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(counts.flatten()).pvalue > 1e-3


@either
@pytest.mark.parametrize("sample_shape", [(), (3,)])
def test_noise_of_an_image_is_the_same_in_every_batch(draw, sample_shape):
    everywhere = per_image(draw, range(20), sample_shape=sample_shape)
    for index in ([7], [3, 7, 11], [19, 7, 0, 7], list(range(19, -1, -1))):
        assert torch.equal(per_image(draw, index, sample_shape=sample_shape), everywhere[..., index, :])


@either
def test_draws_of_a_context_differ_and_come_back_in_a_new_one(draw):
    first, second = (per_image(draw, range(4), skip=n) for n in (0, 1))
    assert (first != second).all()
    assert torch.equal(second, per_image(draw, range(4), skip=1))
    assert (first != per_image(draw, range(4), seed=1)).all()
    assert (first != per_image(draw, range(4, 8))).all()


@either
@pytest.mark.parametrize("sample_shape", [(), (1,), (4,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_type_of_noise_follow_the_argument(draw, sample_shape, dtype):
    like = torch.empty(3, 2, 5, dtype=dtype)
    outside = draw(like, sample_shape)
    with noise.per_image(torch.arange(3)):
        inside = draw(like, sample_shape)
    assert inside.shape == outside.shape == (*sample_shape, 3, 2, 5)
    assert inside.dtype == outside.dtype == dtype
    assert (inside[..., 0, :] != inside[..., 1, :]).any()


def test_nested_contexts_restore_the_outer_one():
    like = torch.empty(2, 3)
    with noise.per_image(torch.arange(2)):
        expected = [noise.normal(like), noise.normal(like)]
    with noise.per_image(torch.arange(2)):
        got = [noise.normal(like)]
        with pytest.raises(RuntimeError), noise.per_image(torch.arange(5), seed=9):
            noise.normal(torch.empty(5, 3))
            raise RuntimeError
        got.append(noise.normal(like))
    assert torch.equal(torch.stack(got), torch.stack(expected))
    torch.manual_seed(0)
    outside = noise.normal(like)
    torch.manual_seed(0)
    assert torch.equal(outside, torch.randn(2, 3))


@either
def test_rows_that_are_not_the_images_are_refused(draw):
    with noise.per_image(torch.arange(3)), pytest.raises(ValueError, match="got 4 rows for 3 images"):
        draw(torch.empty(4, 2))


@either
def test_noise_of_images_leaves_the_global_generator_alone(draw):
    before = torch.get_rng_state()
    per_image(draw, range(10), sample_shape=(2,))
    assert torch.equal(torch.get_rng_state(), before)
    draw(torch.empty(10, 5))  # while training noise does come from it
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bits", [0, -1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_extreme_hashes_give_finite_noise(monkeypatch, bits, dtype):
    monkeypatch.setattr(noise, "mix", lambda x: torch.full_like(x, bits) if torch.is_tensor(x) else bits)
    with noise.per_image(torch.arange(2)):
        u, z = noise.uniform(torch.empty(2, 3, dtype=dtype)), noise.normal(torch.empty(2, 3, dtype=dtype))
    assert ((u > 0) & (u < 1)).all()
    assert u.log().isfinite().all() and (-u).log1p().isfinite().all() and z.isfinite().all()


def test_training_uniforms_exclude_both_ends(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.tensor([[0.0, 1 - 2**-24]]))
    u = noise.uniform(torch.empty(1, 2))
    assert ((u > 0) & (u < 1)).all()


def test_the_hash_is_splitmix64():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # first outputs of the stream of seed 0
    assert [mix(n) % 2**64 for n in range(3)] == published
    x = torch.randint(-(2**63), 2**63 - 1, (1000,), dtype=torch.int64)
    assert mix(x).tolist() == mix(x.numpy()).tolist() == [mix(n) for n in x.tolist()]


# ---- training: noise of the step ------------------------------------------------------------------------------------


def step_draw(*arguments):
    noise.seed_step(*arguments)
    return noise.normal(torch.empty(8))


def test_a_step_has_the_same_noise_whatever_came_before():
    first = step_draw(3, 100, 1)
    torch.randn(17)
    assert torch.equal(step_draw(3, 100, 1), first)
    for other in [(4, 100, 1), (3, 101, 1), (3, 100, 0)]:
        assert (step_draw(*other) != first).all()


def test_no_two_of_seed_step_and_rank_share_a_generator_state():
    seeds = set()
    for seed in (0, 1, 2, 2**31 - 1):
        for step in range(200):
            for rank in range(4):
                noise.seed_step(seed, step, rank)
                seeds.add(torch.initial_seed())
    assert len(seeds) == 4 * 200 * 4


def test_noise_of_successive_steps_is_independent():
    z = torch.stack([step_draw(0, step) for step in range(5000)]).double()  # [5000, 8]
    assert stats.kstest(z.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
    assert abs(torch.stack([z[:-1].flatten(), z[1:].flatten()]).corrcoef()[0, 1]) < 4 / 40_000**0.5
