import pytest

from vae_zoo.schedules import Constant, Cosine, Cyclic, Linear, as_schedule


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
