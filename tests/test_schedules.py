import pytest

from vae_zoo.schedules import Constant, Cosine, Cyclic, FacetWeights, Linear, Progressive, Staircase, as_schedule


@pytest.mark.parametrize("number", [0, 3, 0.25])
def test_numbers_stand_for_constants(number):
    assert as_schedule(number) == Constant(number)
    assert [as_schedule(number)(step) for step in (0, 1, 10**9)] == [number] * 3


def test_anything_callable_is_taken_as_it_is():
    for schedule in (Linear(0, 1, 10), lambda step: step**2):
        assert as_schedule(schedule) is schedule


@pytest.mark.parametrize("kind", [Linear, Cosine])
@pytest.mark.parametrize(("start", "end"), [(1, 5), (5, 1)])
def test_ramps_hold_both_ends_and_are_half_way_in_the_middle(kind, start, end):
    ramp = kind(start=start, end=end, steps=100, begin=20)
    assert [ramp(step) for step in (0, 19, 20)] == pytest.approx([start] * 3)
    assert ramp(70) == pytest.approx(3)
    assert [ramp(step) for step in (120, 121, 10**6)] == pytest.approx([end] * 3)
    rises = [(ramp(step + 1) - ramp(step)) * (end - start) for step in range(20, 120)]
    assert min(rises) > 0


def test_linear_is_straight_and_cosine_is_flat_at_both_ends():
    linear, cosine = Linear(0, 1, 100), Cosine(0, 1, 100)
    assert [linear(step) for step in range(0, 101, 25)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    # (1 - cos 45 degrees) / 2
    assert [cosine(25), cosine(75)] == pytest.approx([0.1464466, 0.8535534])
    assert cosine(1) < 0.001 and 1 - cosine(99) < 0.001


def test_staircase_is_that_of_the_split_paper():
    rate = Staircase(factor=0.4, every=1_000_000)
    steps = (0, 999_999, 1_000_000, 2_000_000)
    assert [1e-4 * rate(step) for step in steps] == pytest.approx([1e-4, 1e-4, 4e-5, 1.6e-5])


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_ramps_may_end_before_the_run_does(kind):
    part, whole = kind(start=1, end=5, steps=200, begin=20, rise=0.25), kind(start=1, end=5, steps=50, begin=20)
    assert [part(step) for step in range(0, 220, 5)] == pytest.approx([whole(step) for step in range(0, 220, 5)])


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_ramp_without_steps_jumps_at_its_begin(kind):
    assert [kind(start=1, end=5, steps=0, begin=10)(step) for step in (0, 9, 10, 11)] == pytest.approx([1, 1, 5, 5])


def test_cycles_repeat_and_rise_over_their_first_part():
    cyclic = Cyclic(start=1, end=3, steps=40, rise=0.25)
    assert [cyclic(step) for step in (0, 5, 10, 39)] == pytest.approx([1, 2, 3, 3])
    assert [cyclic(step) for step in range(40)] == [cyclic(step + 120) for step in range(40)]
    assert [Cyclic(1, 3, 40)(step) for step in (0, 10, 20, 39, 40)] == pytest.approx([1, 2, 3, 3, 1])


@pytest.mark.parametrize("rise", [0, 1])
def test_cycles_may_rise_at_once_or_all_the_time(rise):
    cyclic = Cyclic(start=0, end=1, steps=10, rise=rise)
    assert [cyclic(step) for step in (0, 5, 9)] == pytest.approx([0, 0.5, 0.9] if rise else [1, 1, 1])


# ---- facets that enter one after the other --------------------------------------------------------------------------


def at(batches_per_epoch, epochs, fade, epoch, batch):
    """The shallow facet's weights at a batch of the official code, whose epoch 0 does not train."""
    schedule = Progressive(10**6, stages=[(epochs - 1) * batches_per_epoch, 10**5], fade_steps=fade)
    return schedule((epoch - 1) * batches_per_epoch + batch, 2)[0]


@pytest.mark.parametrize(
    ("epoch", "batch", "value"),
    [(201, 0, 0.0), (201, 1, 1 / 15000), (250, 0, 0.385467), (264, 59, 0.499533), (328, 13, 0.999933), (328, 14, 1.0)],
)
def test_facets_fade_in_as_in_the_official_code_on_mnist(epoch, batch, value):
    assert at(118, 201, 15000, epoch, batch) == FacetWeights(*3 * [pytest.approx(value, abs=1e-6)])


@pytest.mark.parametrize(
    ("setting", "epoch", "batch"), [((489, 101, 15000), 131, 330), ((26, 101, 2000), 177, 24)], ids=["svhn", "shapes3d"]
)
def test_facets_are_in_at_the_batch_of_the_official_code(setting, epoch, batch):
    before = at(*setting, epoch, batch - 1)
    assert 1 - 1.01 / setting[2] < before.alpha < 1 and at(*setting, epoch, batch) == FacetWeights(1.0, 1.0, 1.0)


WAITS, IN = FacetWeights(0.0, 0.0, 0.0), FacetWeights(1.0, 1.0, 1.0)


def test_three_facets_enter_the_deepest_first():
    schedule, half = Progressive(300, fade_fraction=0.5), FacetWeights(*3 * [pytest.approx(0.5)])
    assert schedule.begins(3) == [200, 100, 0]
    assert schedule(0, 3) == schedule(99, 3) == schedule(100, 3) == [WAITS, WAITS, IN]
    assert schedule(125, 3) == [WAITS, half, IN] and schedule(150, 3) == [WAITS, IN, IN]
    assert schedule(225, 3) == [half, IN, IN] and schedule(250, 3) == schedule(10**9, 3) == [IN, IN, IN]
    assert Progressive(300, fade_fraction=0.5)(0, 1) == [IN]


def test_weights_of_facets_rise_and_stay():
    schedule = Progressive(1000, stages=[0.2, 0.3, 0.5], fade_fraction=0.6, gamma_fade_steps=400, gamma_start_z=0.1)
    rows = [schedule(step, 3) for step in range(1200)]
    for name in ("alpha", "gamma_z", "gamma_c"):
        values = [[getattr(weights, name) for weights in row] for row in rows]
        assert all(a <= b <= 1 for before, after in zip(values, values[1:]) for a, b in zip(before, after))
        assert values[-1] == [1, 1, 1]
    assert [rows[199][1].gamma_z, rows[199][1].gamma_c] == [0.1, 0.0], "while it waits"
    assert [rows[300][1].alpha, rows[300][1].gamma_z] == pytest.approx([100 / 180, 0.1 + 0.9 * 0.25])
    assert rows[499][1].gamma_c < 1 and rows[500][1] == IN, "a fade ends where the next facet enters"


def test_a_fade_of_no_steps_is_a_jump():
    schedule = Progressive(100, stages=[40, 60], fade_steps=0, gamma_fade_steps=20)
    assert schedule(39, 2)[0] == WAITS and schedule(40, 2)[0] == FacetWeights(1.0, 0.0, 0.0)
    assert schedule(50, 2)[0] == FacetWeights(1.0, 0.5, 0.5)


def test_a_facet_may_go_without_its_kl_after_it_has_entered():
    schedule = Progressive(1000, stages=[400, 600], pretrain=[0.25, 50], fade_steps=40, gamma_fade_steps=100, warm_up=0.25)
    assert schedule.begins(2) == [450, 100]
    free = FacetWeights(1.0, 0.0, 0.0)
    assert schedule(0, 2) == schedule(99, 2) == schedule(100, 2) == [WAITS, free]
    assert schedule(125, 2) == [WAITS, FacetWeights(1.0, 0.25, 0.25)] and schedule(200, 2) == [WAITS, IN]
    assert schedule(420, 2) == [FacetWeights(0.5, 0.0, 0.0), IN] and schedule(450, 2) == [free, IN]
    assert schedule(500, 2) == [FacetWeights(1.0, 0.5, 0.5), IN] and schedule(550, 2) == [IN, IN]


def test_the_kl_of_the_deepest_facet_counts_in_full_unless_it_warms_up():
    assert Progressive(1000, fade_steps=40, gamma_fade_steps=100)(0, 2) == [WAITS, IN]
    schedule = Progressive(1000, fade_steps=40, warm_up=200)
    assert schedule(0, 2) == [WAITS, FacetWeights(1.0, 0.0, 0.0)] and schedule.begins(2)[1] == 0
    assert schedule(50, 2) == [WAITS, FacetWeights(1.0, 0.25, 0.25)] and schedule(200, 2) == [WAITS, IN]
    assert schedule(520, 2) == [FacetWeights(0.5, 0.5, 0.5), IN], "of the deepest alone"


@pytest.mark.parametrize(
    ("fades", "message"),
    [
        ({}, "either fade_steps or fade_fraction, got None and None"),
        ({"fade_steps": 1, "fade_fraction": 0.5}, "got 1 and 0.5"),
        ({"fade_steps": 1, "gamma_fade_steps": 1, "gamma_fade_fraction": 0.5}, "or neither, not both"),
    ],
)
def test_fades_that_contradict_each_other_are_refused(fades, message):
    with pytest.raises(ValueError, match=message):
        Progressive(100, **fades)
