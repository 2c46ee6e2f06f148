"""The data engine on a toy set whose images carry their own number."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch

from tests.annotations import unchecked
from vae_zoo.contract import Model
from vae_zoo.data.arrays import Arrays, Factor
from vae_zoo.data.datamodule import BLOCK, WINDOW, DataModule, EvalBatches, by_blocks, check_size, read_ahead
from vae_zoo.data.sets.digits import Digits
from vae_zoo.utils.errors import UserError

N = 500


class Toy(DataModule):
    """Pixel 0 and 1 of image i are its number; classes of unequal sizes; factors: parity and i // 100."""

    default_group = "label"

    def __init__(self, n=N, arrays=None, **common):
        super().__init__((1, 4, 4), **common)
        self.arrays = toy_arrays(n) | (arrays or {})

    def load(self):
        return Arrays(**self.arrays)


def toy_arrays(n=N):
    i = np.arange(n)
    images = np.zeros((n, 1, 4, 4), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = i // 256, i % 256
    factors = np.stack([i % 2, i // 100], 1).astype(np.uint8)
    return {
        "images": images,
        "label": (i % 11) // 3,  # 0, 1, 2 of 3/11 each, 3 of 2/11
        "num_classes": 4,
        "factors": factors,
        "factor_info": (Factor("parity", 2, "categorical"), Factor("hundred", 5, "ordered")),
    }


def toy(needs=(), **settings) -> Toy:
    data = Toy(**settings)
    data.serve(Mock(spec=Model, needs=frozenset(needs)))
    return data


def numbers(batch) -> list[int]:
    """Which images these are, read from their pixels."""
    pixels = (batch["image"][:, 0, 0, :2] * 255).round().long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def epoch(data, e=0, **placement):
    steps = range(e * data.batches_per_epoch, (e + 1) * data.batches_per_epoch)
    return [data.train_batch(step, **placement) for step in steps]


def flat(batches):
    return [number for batch in batches for number in numbers(batch)]


def same(a, b):
    """Whether two batches are equal to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# ---- order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 32, 64])
def test_an_epoch_shows_every_training_image_once_but_for_the_last_part_of_a_batch(batch_size):
    data = toy(batch_size=batch_size)
    for e in range(3):
        shown = flat(epoch(data, e))
        assert len(shown) == len(set(shown)) == 400 // batch_size * batch_size
        assert set(shown) <= set(data.indices["train"].tolist())
        assert all(len(batch["image"]) == batch_size for batch in epoch(data, e))


def test_order_is_a_function_of_seed_and_epoch():
    first, second = toy(seed=3), toy(seed=3)
    later = flat(epoch(second, 5))  # asked for out of order
    assert flat(epoch(first, 0)) == flat(epoch(second, 0))
    assert flat(epoch(first, 5)) == later
    assert flat(epoch(first, 0)) != flat(epoch(first, 1)) != flat(epoch(toy(seed=4), 1))


def test_train_batch_is_pure():
    data = toy(["supervised"], labelled=50, group_by="label")
    before = data.train_batch(7)
    data.train_batch(123), epoch(data, 2), list(EvalBatches(data, "val"))
    assert same(before, data.train_batch(7))


def test_fewer_images_than_a_batch_are_one_batch():
    data = toy(batch_size=64, subset=20)
    assert data.batches_per_epoch == 1 and len(data.train_batch(9)["image"]) == 20


@unchecked()  # the trainer is not Lightning's
def test_training_stream_begins_at_the_trainers_step():
    data = toy()
    data.trainer = trainer(global_step=11)
    stream = iter(data.train_dataloader())
    assert all(same(next(stream), data.train_batch(step)) for step in range(11, 25))


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_test_every_image_once_and_whole_identities_where_there_are_any(folds):
    for arrays in ({}, {"groups": {"identity": np.arange(N) // 20}}):
        parts = [toy(folds=folds, fold=fold, val_size=2, arrays=arrays).indices for fold in range(folds)]
        assert sorted(torch.cat([part["test"] for part in parts]).tolist()) == list(range(N))
        assert max(len(part["test"]) for part in parts) - min(len(part["test"]) for part in parts) <= (20 if arrays else 1)
        for part in parts:
            assert sorted(torch.cat(list(part.values())).tolist()) == list(range(N))
            if arrays:
                assert not {*(part["test"] // 20).tolist()} & {*(part["train"] // 20).tolist()}


def test_folds_need_a_set_without_test_images_of_its_own():
    with pytest.raises(UserError, match="data.folds=.* the data set has an official test split"):
        toy(folds=3, arrays={"split": np.repeat([0, 2], N // 2)})


# ---- reading ahead, and files beyond memory ------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 255, 256, 257, 20_000])
def test_blocks_are_shuffled_within_windows_by_seed_and_epoch(n):
    def order(seed):
        return by_blocks(n, torch.Generator().manual_seed(seed))

    assert torch.equal(order(1), order(1)) and order(1).sort().values.tolist() == [*range(n)]
    if n == 20_000:
        first, blocks = order(1)[: BLOCK * WINDOW], torch.arange(n) // BLOCK
        assert not torch.equal(order(1), order(2)) and len(blocks[first].unique()) <= WINDOW + 1
        assert len(blocks[first[:64]].unique()) > WINDOW / 2, "a batch has images of many blocks"


def test_blocks_show_every_training_image_once_an_epoch_and_resume_at_any_step():
    data, again = (toy(shuffle="blocks", seed=2) for _ in range(2))
    shown = flat(epoch(data, 1))
    assert len({*shown}) == len(shown) == 384 and {*shown} <= {*data.indices["train"].tolist()}
    assert shown != flat(epoch(toy(seed=2), 1)) and same(again.train_batch(9), data.train_batch(9))


def test_batches_are_made_one_ahead_and_errors_of_the_thread_are_raised():
    made = []

    def make(step):
        made.append(step)
        if step == 3:
            raise UserError("the disk is gone")
        return step

    batches = read_ahead(make, range(9))
    assert next(batches) == 0
    deadline = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1] and [next(batches), next(batches)] == [1, 2]
    with pytest.raises(UserError, match="the disk is gone"):
        next(batches)


def test_threads_that_ask_for_several_epochs_get_each_its_own():
    data, wanted = toy(), [toy().epoch_order(e) for e in range(6)]
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(data.epoch_order, [*range(6)] * 20)]
    assert all(torch.equal(found[i], wanted[i % 6]) for i in range(len(found)))


def test_a_mapped_file_is_served_without_being_read_into_memory(tmp_path):
    shape = (200_000, 1, 64, 64)  # 0.8 GB that take no disk
    with (tmp_path / "images.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))

    class Mapped(DataModule):
        def load(self):
            return Arrays(np.load(tmp_path / "images.npy", mmap_mode="r"))

    process = psutil.Process()
    before = process.memory_full_info().uss
    data = Mapped((1, 64, 64))
    data.setup()
    assert all(data.train_batch(step)["image"].sum() == 0 for step in range(20))
    file = next(m for m in process.memory_maps() if m.path.endswith("images.npy"))
    assert process.memory_full_info().uss - before - file.rss < 100e6, "indices and batches"


# ---- ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"group_by": "label", "group_size": 4}])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_one_batch(settings, world_size):
    data = toy(batch_size=32, **settings)
    for step in (0, 5, 30):
        parts = [numbers(data.train_batch(step, rank, world_size)) for rank in range(world_size)]
        assert {len(part) for part in parts} == {32 // world_size}
        assert sum(parts, []) == numbers(data.train_batch(step))


def test_ranks_share_the_supervised_batch():
    data = toy(["supervised"], batch_size=32, labelled=64)
    parts = [numbers(data.train_batch(3, rank, 2)["supervised"]) for rank in range(2)]
    assert sum(parts, []) == numbers(data.train_batch(3)["supervised"])


@pytest.mark.parametrize(
    ("settings", "what", "setting"),
    [
        ({"batch_size": 30}, "30 images", "data.batch_size"),
        ({"batch_size": 32, "subset": 7}, "7 images", "subset"),
        ({"batch_size": 32, "group_by": "label", "group_size": 3}, "10 groups", "data.num_groups"),
    ],
)
def test_a_step_that_ranks_cannot_share_evenly_is_refused(settings, what, setting):
    with pytest.raises(UserError, match=f"4 processes cannot share {what} per step evenly; set .*{setting}.* 4$"):
        toy(**settings).train_batch(0, rank=1, world_size=4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_shows_a_split_once_over_all_ranks_and_leaves_no_rank_idle(world_size):
    data = toy(batch_size=64, val_size=50)
    ranks = [EvalBatches(data, "val", {"rank": r, "world_size": world_size}) for r in range(world_size)]
    shown = [flat(rank) for rank in ranks]
    assert sorted(sum(shown, [])) == data.indices["val"].tolist()
    assert all(shown) and all(len(rank) == len(list(rank)) for rank in ranks)


def test_more_ranks_than_images_to_evaluate_are_refused():
    with pytest.raises(UserError, match="3 images of split val are too few for 5 processes; raise data.val_size"):
        EvalBatches(toy(val_size=3), "val", {"rank": 0, "world_size": 5})


def test_evaluation_keeps_the_order_of_the_split_and_knows_everything():
    data = toy(labelled=10)
    batches = list(EvalBatches(data, "test", batch_size=7))
    assert flat(batches) == data.indices["test"].tolist()
    index = torch.cat([batch["index"] for batch in batches])
    assert torch.equal(torch.cat([batch["label"] for batch in batches]), data.label[index])
    assert torch.equal(torch.cat([batch["factors"] for batch in batches]), data.factors[index].float())


# ---- groups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["label", "hundred", "own"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_groups_are_whole_contiguous_and_share_their_content(by, size):
    own = np.arange(N) % 37
    data = toy(batch_size=40, group_by=by, group_size=size, arrays={"groups": {"own": own}})
    content = {"label": data.label, "hundred": data.factors[:, 1], "own": torch.from_numpy(own)}[by]
    for rank in range(2):
        for batch in epoch(data, 1, rank=rank, world_size=2):
            assert batch["num_groups"] == 20 // size
            group = batch["group"]
            assert torch.equal(group.bincount(), torch.full((20 // size,), size))
            for g in range(batch["num_groups"]):
                assert len(content[batch["index"][group == g]].unique()) == 1


def test_grouped_epoch_shows_each_image_at_most_once_and_leaves_out_less_than_a_group_of_each_class():
    data = toy(batch_size=2, group_by="label", group_size=2)
    shown = flat(epoch(data))
    per_class = data.label[data.indices["train"]].bincount()
    assert len(shown) == len(set(shown)) == int((per_class // 2 * 2).sum())


def test_classes_appear_in_proportion_to_their_images():
    data = toy(batch_size=5, group_by="label", group_size=5)
    shown = data.label[torch.tensor(flat(epoch(data)))].bincount()
    assert torch.equal(shown, data.label[data.indices["train"]].bincount() // 5 * 5)


def test_members_of_a_group_change_between_epochs():
    data = toy(batch_size=2, group_by="label", group_size=2)
    pairs = [{frozenset(numbers(batch)) for batch in epoch(data, e)} for e in range(2)]
    assert len(pairs[0] & pairs[1]) < 20


def test_classes_are_mixed_over_an_epoch():
    data = toy(batch_size=20, group_by="label", group_size=2)
    assert all(len(batch["label"].unique()) >= 2 for batch in epoch(data))


def test_number_of_groups_can_be_set():
    batch = toy(batch_size=64, group_by="label", group_size=4, num_groups=3).train_batch(0)
    assert batch["num_groups"] == 3 and len(batch["image"]) == 12


def test_an_evaluation_batch_groups_all_that_share_content():
    data = toy(group_by="label")
    batch = data.batch(data.indices["test"][:40])
    assert batch["num_groups"] == 4
    assert torch.equal(batch["group"], batch["label"])


def test_images_of_unknown_class_share_a_group_with_none():
    arrays = {"label": np.where(np.arange(N) < 200, -1, np.arange(N) % 3)}
    data = toy(group_by="label", group_size=2, arrays=arrays)
    assert all((batch["label"] >= 0).all() for batch in epoch(data))
    assert data.batch(torch.arange(200))["num_groups"] == 200


def test_default_grouping_is_used_and_logged_when_the_model_needs_groups(caplog):
    caplog.set_level("INFO")
    assert "group" in toy(["group"]).train_batch(0)
    assert "data.group_by=label" in caplog.text
    assert "group" not in toy().train_batch(0)


# ---- sizes and choice of groups -------------------------------------------------------------------------------------

OWN = np.where(np.arange(N) < 300, 0, np.arange(N) // 8)  # a group of some 240 training images, and many of 8 at most


def ranged(**settings):
    settings = {"group_size": [1, 4], "num_groups": 10, "group_by": "own", "arrays": {"groups": {"own": OWN}}} | settings
    return toy(**settings)


def groups_in(batches):
    """The images of each group, in order."""
    return [batch["index"][batch["group"] == g].tolist() for batch in batches for g in range(batch["num_groups"])]


either_pick = pytest.mark.parametrize("pick", ["images", "balanced"])


@either_pick
@pytest.mark.parametrize("size", [3, [1, 4], [2, 5], [4, 4], [1, 100]])
def test_groups_are_of_the_sizes_asked_for_and_of_one_content(pick, size):
    data = ranged(group_size=size, group_pick=pick)
    least, most = (size, size) if isinstance(size, int) else size
    available = torch.from_numpy(OWN)[data.indices["train"]].bincount()
    for e in range(4):
        batches = epoch(data, e)
        assert len(batches) == data.batches_per_epoch and all(batch["num_groups"] == 10 for batch in batches)
        for images in groups_in(batches):
            assert len(images) == len(set(images)) and len({OWN[i] for i in images}) == 1
            assert least <= len(images) <= min(most, available[OWN[images[0]]])
    assert {len(images) for images in groups_in(batches)} >= {least}


@either_pick
def test_sizes_and_members_are_a_function_of_seed_and_step(pick):
    first, second, other = (ranged(group_pick=pick, seed=s) for s in (3, 3, 4))
    last = 5 * first.batches_per_epoch + 1
    later = second.train_batch(last)  # asked for out of order
    assert all(same(a, b) for a, b in zip(epoch(first), epoch(second)))
    assert same(first.train_batch(last), later)
    assert flat(epoch(first)) != flat(epoch(first, 1)) and flat(epoch(first)) != flat(epoch(other))
    assert {tuple(first.group_sizes(step).tolist()) for step in range(6)} != {tuple(first.group_sizes(0).tolist())}


@either_pick
def test_sizes_are_uniform_on_the_range(pick):
    data = ranged(group_pick=pick, arrays={"groups": {"own": np.arange(N) % 3}})
    count = torch.cat([data.group_sizes(step) for step in range(40)]).bincount(minlength=5)
    assert count[0] == 0 and (count[1:] - 100).abs().max() < 4 * (100 * 0.75) ** 0.5


@either_pick
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_get_equally_many_whole_groups(pick, world_size):
    data = ranged(group_pick=pick)
    for step in (0, 3, 70):
        parts = [data.train_batch(step, rank, world_size) for rank in range(world_size)]
        assert {part["num_groups"] for part in parts} == {10 // world_size}
        assert groups_in(parts) == groups_in([data.train_batch(step)])


@pytest.mark.parametrize("size", [[1, 4], [2, 5], 3])
def test_picked_by_images_each_comes_at_most_once_an_epoch(size):
    data = ranged(group_size=size)
    shown = [flat(epoch(data, e)) for e in range(60)]
    assert all(len(images) == len(set(images)) for images in shown)
    missed = set(data.indices["train"].tolist()) - set(sum(shown, []))
    small = {g for g, n in enumerate(np.bincount(OWN[data.indices["train"]])) if n < 3}
    assert {OWN[i] for i in missed} <= small  # those whose group never has enough images


def test_picked_balanced_every_group_comes_equally_often_however_large():
    data = ranged(group_size=[2, 4], num_groups=1, group_pick="balanced")
    available = np.bincount(OWN[data.indices["train"]])
    usable = {g for g, n in enumerate(available) if n >= 2}
    groups = groups_in(epoch(data))
    owners = [OWN[images[0]] for images in groups]
    for start in range(0, len(owners), len(usable)):  # round after round
        assert set(owners[start : start + len(usable)]) == usable
    assert len(owners) % len(usable) == 0 and owners[: len(usable)] != sorted(usable)
    assert sum(map(len, groups)) == pytest.approx(400, rel=0.15)
    by_images = [OWN[images[0]] for images in groups_in(epoch(ranged(group_size=[2, 4], num_groups=1)))]
    assert owners.count(0) / len(owners) < 0.1 < 0.4 < by_images.count(0) / len(by_images)


@pytest.mark.parametrize("size", [4, [2, 5]])
def test_picked_balanced_the_images_of_a_group_come_equally_often(size):
    own = np.where(np.arange(N) % 2, 0, 1 + np.arange(N) % 3)
    data = ranged(group_size=size, group_pick="balanced", num_groups=1, arrays={"groups": {"own": own}})
    shown = np.bincount(flat(epoch(data, 2)), minlength=N)
    for g in range(4):
        times = shown[[i for i in data.indices["train"].tolist() if own[i] == g]]
        assert times.max() - times.min() <= 1


def test_number_of_groups_follows_the_batch_size_and_the_middle_of_the_range():
    assert toy(batch_size=64, group_by="label", group_size=[1, 7]).train_batch(0)["num_groups"] == 16
    assert toy(batch_size=4, group_by="label", group_size=[10, 20]).train_batch(0)["num_groups"] == 1


@pytest.mark.parametrize(("size", "fixed"), [(3, 3), ([1, 4], 4), ([1, 100], 100)])
def test_evaluation_shows_whole_groups_of_one_size_and_leaves_out_the_rest(size, fixed):
    data = ranged(group_size=size, val_size=100)
    batches = list(EvalBatches(data, "val", batch_size=32))
    groups = groups_in(batches)
    available = {g: n for g, n in enumerate(np.bincount(OWN[data.indices["val"]])) if n}
    assert {len(images) for images in groups} == {min(fixed, n) for n in available.values()}
    shown = [OWN[images[0]] for images in groups]
    assert {g: shown.count(g) for g in available} == {g: n // min(fixed, n) for g, n in available.items()}
    assert all(len({OWN[i] for i in images}) == 1 for images in groups)
    assert len(flat(batches)) == len(set(flat(batches))) and set(flat(batches)) <= set(data.indices["val"].tolist())
    assert all(len(batch["index"]) <= max(32, fixed) for batch in batches)
    assert len(set(shown[: len(available)])) == len(available)  # one of each before the second of any
    assert all(
        same(a, b) for a, b in zip(batches, EvalBatches(ranged(group_size=size, val_size=100, seed=5), "val", None, 32))
    )


@either_pick
def test_groups_of_training_and_of_evaluation_may_be_others(pick):
    """As when whole identities are kept for the test; some of theirs have the first, some the last numbers."""
    own = np.arange(N) // 10
    split = np.where(own % 5 == 0, 2, np.where(own >= 45, 1, 0))
    data = ranged(group_pick=pick, arrays={"groups": {"own": own}, "split": split})
    trained = {own[i] for i in flat(epoch(data))}
    assert trained == {g for g in range(45) if g % 5}
    for name, wanted in (("test", {g for g in range(50) if g % 5 == 0}), ("val", {46, 47, 48, 49})):
        groups = groups_in(EvalBatches(data, name))
        assert {own[images[0]] for images in groups} == wanted and {len(images) for images in groups} == {4}


@pytest.mark.parametrize("world_size", [2, 3])
def test_evaluation_never_splits_a_group_between_ranks_or_batches(world_size):
    data = ranged(group_size=3, val_size=100)
    whole = groups_in(EvalBatches(data, "val"))
    for size in (7, 64):
        ranks = [EvalBatches(data, "val", {"rank": r, "world_size": world_size}, size) for r in range(world_size)]
        assert all(len(rank) == len(list(rank)) > 0 for rank in ranks)
        assert sorted(sum((groups_in(rank) for rank in ranks), [])) == sorted(whole)


def test_more_ranks_than_groups_to_evaluate_are_refused():
    data = toy(group_by="label", group_size=40, val_size=50)
    with pytest.raises(UserError, match="4 groups of split .* are too few for 5 processes; lower data.group_size"):
        EvalBatches(data, "val", {"rank": 0, "world_size": 5})


# ---- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (400, 50, 50)),
        ({"val_size": 0.2, "test_size": 0.4}, (200, 100, 200)),
        ({"val_size": 7, "test_size": 11}, (482, 7, 11)),
        ({"val_size": 0.1, "test_size": 1}, (449, 50, 1)),
    ],
)
def test_splits_are_disjoint_exhaustive_and_of_the_sizes_asked_for(sizes, expected):
    indices = toy(**sizes).indices
    assert tuple(len(indices[name]) for name in ("train", "val", "test")) == expected
    assert sorted(torch.cat(list(indices.values())).tolist()) == list(range(N))


def test_splits_depend_on_split_seed_alone():
    first = toy()
    others = [toy(seed=9, batch_size=7), toy(labelled=10), toy(group_by="label"), toy(split_seed=1)]
    unchanged = [all(torch.equal(first.indices[s], other.indices[s]) for s in first.indices) for other in others]
    assert unchanged == [True, True, True, False]


def test_official_splits_stay_and_what_is_missing_is_cut_from_train():
    split = np.repeat([0, 2], [380, 120])
    indices = toy(arrays={"split": split}, val_size=0.1, test_size=0.5).indices
    assert indices["test"].tolist() == list(range(380, 500))
    assert (len(indices["train"]), len(indices["val"])) == (342, 38)
    assert int(torch.cat([indices["train"], indices["val"]]).max()) == 379
    whole = np.repeat([0, 1, 2], [300, 100, 100])
    indices = toy(arrays={"split": whole}).indices
    assert [len(indices[name]) for name in ("train", "val", "test")] == [300, 100, 100]


def test_subset_takes_training_images_only():
    data, whole = toy(subset=25), toy()
    assert len(data.indices["train"]) == 25 == len(set(data.indices["train"].tolist()))
    assert set(data.indices["train"].tolist()) <= set(whole.indices["train"].tolist())
    assert all(torch.equal(data.indices[name], whole.indices[name]) for name in ("val", "test"))


# ---- identities -----------------------------------------------------------------------------------------------------

PEOPLE = np.random.default_rng(0).integers(100, 140, N)  # 40 of them, in no order


def people(**settings):
    return toy(**{"arrays": {"groups": {"identity": PEOPLE}}} | settings)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (32, 4, 4)),
        ({"val_size": 5, "test_size": 7}, (28, 5, 7)),
        ({"val_size": 0.25, "test_size": 0.5}, (10, 10, 20)),
    ],
)
def test_identities_go_whole_to_one_split_and_sizes_count_them(sizes, expected):
    indices = people(**sizes).indices
    who = [set(PEOPLE[indices[name]]) for name in ("train", "val", "test")]
    assert tuple(map(len, who)) == expected and len(set.union(*who)) == 40
    assert sorted(torch.cat(list(indices.values())).tolist()) == list(range(N))


def test_split_by_identity_depends_on_split_seed_alone():
    first = people().indices
    others = [people(seed=9, group_by="identity").indices, people(split_seed=1).indices]
    assert [torch.equal(first["test"], other["test"]) for other in others] == [True, False]


def test_images_of_unknown_identity_are_split_one_by_one():
    indices = toy(arrays={"groups": {"identity": np.full(N, -1)}}).indices
    assert [len(indices[name]) for name in ("train", "val", "test")] == [400, 50, 50]


def test_validation_is_cut_by_identity_from_what_an_official_split_leaves():
    split = np.where(PEOPLE < 110, 2, 0)
    indices = people(arrays={"groups": {"identity": PEOPLE}, "split": split}, val_size=3, test_size=1).indices
    assert indices["test"].tolist() == np.flatnonzero(PEOPLE < 110).tolist()
    train, val = (set(PEOPLE[indices[name]]) for name in ("train", "val"))
    assert (len(train), len(val)) == (27, 3) and not train & val


def test_an_identity_in_two_official_splits_is_refused():
    split = np.where(PEOPLE < 110, 2, 0)
    split[np.flatnonzero(PEOPLE == 105)[0]] = 1
    with pytest.raises(UserError, match="official split has identity 105 in both val and test"):
        people(arrays={"groups": {"identity": PEOPLE}, "split": split})


def test_further_test_sets_are_kept_apart():
    split = np.where(PEOPLE < 110, 3, 0)
    arrays = {"groups": {"identity": PEOPLE}, "split": split, "extra_splits": ("test_odd",)}
    data = people(arrays=arrays)
    assert [*data.indices] == ["train", "val", "test", "test_odd"]
    assert data.indices["test_odd"].tolist() == np.flatnonzero(PEOPLE < 110).tolist()
    assert len(set(PEOPLE[data.indices["test"]])) == 3 and (PEOPLE[data.indices["test"]] >= 110).all()
    assert flat(EvalBatches(data, "test_odd")) == data.indices["test_odd"].tolist()


# ---- labels ---------------------------------------------------------------------------------------------------------


def seen_labels(data):
    """{image: label} of all labels in three epochs."""
    seen = {}
    for e in range(3):
        for batch in epoch(data, e):
            for part in (batch, batch.get("supervised", batch)):
                known = part["label"] >= 0
                seen |= dict(zip(part["index"][known].tolist(), part["label"][known].tolist()))
    return seen


@pytest.mark.parametrize("pick", ["balanced", "random", "first_n"])
def test_training_sees_so_many_labels_and_no_other(pick):
    data = toy(labelled=22, label_pick=pick, batch_size=1)
    seen = seen_labels(data)
    assert len(seen) == 22
    assert all(label == (i % 11) // 3 for i, label in seen.items())
    assert sum(int((batch["label"] == -1).sum()) for batch in epoch(data)) == 400 - 22


@pytest.mark.parametrize("labelled", [4, 10, 22, 39])
def test_balanced_labels_differ_by_at_most_one_a_class(labelled):
    data = toy(labelled=labelled)
    counts = data.label[data.labelled_indices].bincount(minlength=4)
    assert counts.sum() == labelled and counts.max() - counts.min() <= 1


@pytest.mark.parametrize("settings", [{}, {"subset": 30}, {"val_size": 0.8}, {"split_seed": 3}])
def test_first_n_labels_are_the_first_images_of_the_set_whatever_is_cut_from_it(settings):
    data = toy(labelled=22, label_pick="first_n", **settings)
    assert torch.equal(data.labelled_indices, torch.arange(22))
    assert len(torch.cat([*data.indices.values()]).unique()) == (N if "subset" not in settings else 130)


def test_first_n_labels_leave_every_image_to_some_fold():
    tested = [toy(labelled=22, label_pick="first_n", folds=5, fold=fold) for fold in range(5)]
    assert len(torch.cat([data.indices["test"] for data in tested]).unique()) == N
    assert all({*data.labelled_indices.tolist()} <= {*data.indices["train"].tolist()} for data in tested)


def test_cells_are_labelled_in_turn_the_first_factor_the_fastest():
    """Of 12 values the halves count: 2 x 3 cells, and 3 rounds of them with 18 labels."""
    places = np.stack(np.meshgrid(range(3), range(12), range(10), indexing="ij"), -1).reshape(-1, 3)[:, :2]
    info = [Factor("a", 3, "categorical"), Factor("b", 12, "ordered")]
    arrays = {"factors": places.astype(np.uint8), "factor_info": info, "label": places[:, 0], "num_classes": 3}
    n = len(places)
    arrays |= {"images": np.zeros((n, 1, 4, 4), np.uint8)}
    cell = places[:, 0] + 3 * (places[:, 1] >= 6)
    for count in (18, 20):
        data = toy(n=n, arrays=arrays, labelled=count, label_pick="cells")
        seen = np.bincount(cell[data.labelled_indices.numpy()], minlength=6)
        assert seen.tolist() == [count // 6 + (k < count % 6) for k in range(6)]


def test_cells_of_continuous_factors_are_refused():
    info = [Factor("a", 0, "continuous"), Factor("b", 5, "ordered")]
    with pytest.raises(UserError, match="label_pick=cells needs discrete factors; choose balanced or random"):
        toy(arrays={"factor_info": info}, labelled=10, label_pick="cells")


@pytest.mark.parametrize("pick", ["balanced", "random"])
def test_which_labels_depends_on_split_seed_alone(pick):
    picks = [
        toy(labelled=30, label_pick=pick, **settings).labelled_indices.tolist()
        for settings in ({}, {"seed": 5}, {"batch_size": 3})
    ]
    assert picks[0] == picks[1] == picks[2]
    data = toy(split_seed=1, labelled=30, label_pick=pick)
    assert data.labelled_indices.tolist() != picks[0]
    assert set(data.labelled_indices.tolist()) <= set(data.indices["train"].tolist())


@pytest.mark.parametrize("pick", ["random", "first_n"])
def test_poisoned_hidden_labels_never_reach_a_training_batch(pick):
    clean = toy(["supervised"], labelled=30, label_pick=pick)
    hidden = np.ones(N, bool)
    hidden[clean.labelled_indices] = False
    poison = {name: toy_arrays()[name].copy() for name in ("label", "factors")}
    for array in poison.values():
        array[hidden] = 77
    poisoned = toy(["supervised"], labelled=30, label_pick=pick, arrays=poison)
    assert all(same(a, b) for e in range(3) for a, b in zip(epoch(clean, e), epoch(poisoned, e)))


def test_training_labels_are_a_copy():
    data = toy(["supervised"], labelled=30)
    before = epoch(data)
    data.label.fill_(77)
    data.factors.fill_(77)
    assert all(same(a, b) for a, b in zip(before, epoch(data)))


def test_several_label_variables_are_shown_and_hidden_together():
    label = np.stack([np.arange(N) % 3, np.arange(N) % 5], 1)
    data = toy(labelled=9, batch_size=400, arrays={"label": label})
    batch = data.train_batch(0)
    known = (batch["label"] >= 0).all(1)
    assert known.sum() == 9 and (batch["label"][~known] == -1).all()
    assert torch.equal(batch["label"][known], torch.from_numpy(label)[batch["index"][known]])


def test_an_image_of_which_one_label_is_known_may_be_picked():
    label = np.full((N, 2), -1)
    label[:60:2, 0], label[:60:3, 1] = 1, 0
    data = toy(["supervised"], labelled=None, arrays={"label": label}, batch_size=16)
    known = (data.label[data.indices["train"]] >= 0).any(1)
    assert data.labelled_indices.tolist() == data.indices["train"][known].tolist() != []
    assert set(data.train_batch(0)["supervised"]["index"].tolist()) <= set(data.labelled_indices.tolist())


def test_without_a_budget_all_labels_are_supervised():
    data = toy(["supervised"], batch_size=16)
    assert torch.equal(data.labelled_indices, data.indices["train"])
    shown = flat([data.train_batch(step)["supervised"] for step in range(data.num_train // 16)])
    assert len(set(shown)) == len(shown) == data.num_train // 16 * 16


def test_groups_by_label_know_only_the_labels_that_training_may_see():
    hidden = {"labelled": 44, "label_pick": "random", "group_by": "label", "batch_size": 8}
    data = toy(group_size=2, **hidden)
    for batch in epoch(data):
        assert {*batch["index"].tolist()} <= {*data.labelled_indices.tolist()}, "others are groups of one"
        assert torch.equal(batch["label"].view(-1, 2)[:, 0], batch["label"].view(-1, 2)[:, 1])
    wrong = toy_arrays()["label"].copy()
    beyond = np.setdiff1d(data.indices["train"].numpy(), data.labelled_indices.numpy())
    wrong[beyond] = (wrong[beyond] + 1) % 4
    for size in (2, [1, 3]):
        one, other = (toy(group_size=size, **hidden, arrays={"label": label}) for label in (toy_arrays()["label"], wrong))
        assert all(same(a, b) for a, b in zip(epoch(one), epoch(other), strict=True))
        assert ({*flat(epoch(one))} <= {*one.labelled_indices.tolist()}) == (size == 2)
    val = [batch["label"] for batch in EvalBatches(data, "val")]
    assert (torch.cat(val) >= 0).all() and data.group_of(data.indices["val"]).unique().numel() == 4


def test_hand_made_labels_stand_in_for_those_of_the_set(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("image,hair,hat\n3,2,\n7,,1\n\n11,0,0\n")
    data = toy(["supervised"], labels_from=str(path), test_size=1, val_size=1)
    wanted = torch.full((N, 2), -1)
    wanted[3, 0], wanted[7, 1], wanted[11] = 2, 1, 0
    assert torch.equal(data.label, wanted) and data.num_classes == 3
    assert set(data.labelled_indices.tolist()) <= {3, 7, 11}
    batch = data.train_batch(0)["supervised"]
    assert torch.equal(batch["label"], wanted[batch["index"]])
    named = {"label": np.zeros((N, 3), int), "label_names": ["Bald", "Male", "Young"]}
    assert toy(labels_from=str(path), arrays=named).label_names == ("hair", "hat"), "not those of the set"
    path.write_text("image,hair\n3,2\n")
    data = toy(labels_from=str(path), arrays=named)
    assert data.label.shape == (N,) and data.label_names == ()


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "is empty"),
        ("name,hair\n3,2\n", "must be image,<label>"),
        ("image\n3\n", "must be image,<label>"),
        ("image,hair\n500,1\n", "line 2: there is no image '500'; give a number from 0 to 499"),
        ("image,hair\nme.png,1\n", "there is no image 'me.png'"),
        ("image,hair\n3,1\n4,blond\n", "line 3: must be the image and 1 labels .*, got"),
        ("image,hair\n3,1,2\n", "must be the image and 1 labels"),
        ("image,hair\n3,-1\n", "must be the image and 1 labels"),
        ("image,hair\n3,\n", "has no labels"),
    ],
)
def test_a_mistake_in_hand_made_labels_is_told(tmp_path, text, sentence):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        toy(labels_from=str(tmp_path / "labels.csv"))


def test_hand_made_labels_may_name_the_images(tmp_path):
    (tmp_path / "labels.csv").write_text("image,hair\nb/2.png,1\n0,0\n")
    names = [f"b/{i}.png" for i in range(N)]
    data = toy(labels_from=str(tmp_path / "labels.csv"), arrays={"names": names})
    assert data.label[2] == 1 and data.label[0] == 0 and (data.label >= 0).sum() == 2


def test_images_of_unknown_label_are_never_picked():
    label = np.where(np.arange(N) % 2, np.arange(N) % 5, -1)
    data = toy(labelled=60, arrays={"label": label})
    assert (data.labelled_indices % 2 == 1).all() and len(data.labelled_indices) == 60


@pytest.mark.parametrize(("labelled", "size", "batches"), [(5, 5, 1), (16, 16, 1), (40, 16, 2), (48, 16, 3)])
def test_supervised_batches_hold_labelled_images_each_once_an_epoch_of_their_own(labelled, size, batches):
    data = toy(["supervised"], labelled=labelled, batch_size=16)
    order = [data.train_batch(step)["supervised"] for step in range(2 * batches)]
    for e in range(2):
        shown = flat(order[e * batches : (e + 1) * batches])
        assert len(shown) == len(set(shown)) == size * batches
        assert set(shown) <= set(data.labelled_indices.tolist())
    assert all(torch.equal(batch["label"], data.label[batch["index"]]) for batch in order)
    assert data.epoch_order(0, "supervised").shape == (batches, size)


def test_supervised_order_is_a_function_of_seed_and_epoch():
    settings = {"needs": ["supervised"], "labelled": 64, "batch_size": 16}
    streams = [[numbers(toy(**settings, seed=s).train_batch(t)["supervised"]) for t in range(8)] for s in (1, 1, 2)]
    assert streams[0] == streams[1] != streams[2]
    assert streams[0][:4] != streams[0][4:]


# ---- pixels ---------------------------------------------------------------------------------------------------------


def test_floats_are_the_bytes_over_255():
    images = np.arange(256, dtype=np.uint8).repeat(16).reshape(-1, 1, 4, 4)
    data = toy(arrays={"images": images, "label": None, "factors": None, "factor_info": ()}, test_size=1, val_size=1)
    x = data.batch(torch.arange(256))["image"]
    assert x.dtype == torch.float32 and x.shape == (256, 1, 4, 4) and x.is_contiguous()
    assert torch.equal(x[:, 0, 0, 0], torch.arange(256) / 255)


def test_packed_images_come_out_as_numpy_unpacks_them():
    packed = np.random.default_rng(0).integers(0, 256, (N, 2), dtype=np.uint8)
    data = toy(arrays={"images": packed, "packed": True})
    batch = data.train_batch(3)
    assert batch["image"].dtype == torch.float32
    wanted = np.unpackbits(packed[batch["index"]], axis=1).reshape(-1, 1, 4, 4)
    assert np.array_equal(batch["image"].numpy(), wanted)


def test_images_in_any_memory_order_are_read_alike():
    images = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
    data = Toy(arrays={"images": images})
    data.image_shape = (3, 4, 4)
    data.setup()
    assert data.images.is_contiguous()
    assert np.array_equal((data.batch(torch.arange(9))["image"] * 255).round().numpy(), images[:9])


def test_a_batch_knows_what_the_set_knows():
    batch = toy().train_batch(0)
    assert batch["factors"].dtype == torch.float32 and batch["label"].dtype == torch.int64
    bare = {"label": None, "factors": None, "factor_info": ()}
    assert toy(arrays=bare).train_batch(0).keys() == {"image", "index"}


def test_label_variables_are_named():
    label = np.stack([np.arange(N) % 3, np.arange(N) % 2], 1)
    assert toy(arrays={"label": label, "label_names": ["a", "b"]}).label_names == ("a", "b")


def test_factors_are_described():
    data = toy()
    assert data.factor_names == ("parity", "hundred")
    assert data.factor_sizes == (2, 5) and data.factor_kinds == ("categorical", "ordered")


# ---- mistakes -------------------------------------------------------------------------------------------------------

UNLABELLED = {"label": None, "factors": None, "factor_info": ()}


@pytest.mark.parametrize(
    ("needs", "settings", "sentence"),
    [
        ([], {"test_size": 500}, "data.test_size must be .* got 500 .500 of 500 images."),
        ([], {"val_size": 0.0001}, "data.val_size must be .* got 0.0001 .0 of 450 images."),
        ([], {"val_size": 0.6, "test_size": 0.5}, "data.val_size must be .* got 0.6 .300 of 250 images."),
        (
            [],
            {"test_size": 40, "arrays": {"groups": {"identity": PEOPLE}}},
            "data.test_size must be a number of identities from 1 to 39, .* got 40 .40 of 40 identities.",
        ),
        ([], {"subset": 401}, "data.subset must be at most 400, the number of training images, got 401"),
        ([], {"labelled": 401}, "data.labelled must be at most 400, the number of labelled training images, got 401"),
        ([], {"labelled": 5, "arrays": UNLABELLED}, "data.labelled=5, but the data set has no labels"),
        ([], {"group_by": "sahpe"}, "data.group_by=sahpe .* choose one of hundred, label, parity"),
        ([], {"group_by": "label", "arrays": UNLABELLED}, "data.group_by=label .* it has none"),
        (["group"], {"arrays": UNLABELLED}, "choose a data set with labels or known factors"),
        ([], {"group_by": "label", "group_size": 200}, "data.group_size=200, but the largest group has 1.. training"),
        ([], {"num_classes": 7}, "data.num_classes=7, but the data set has 4 classes; set data.num_classes=4"),
        (["supervised"], {"arrays": UNLABELLED}, "the data set has none; choose a data set with labels"),
        (["label"], {"arrays": UNLABELLED}, "the data set has none; choose a data set with labels"),
        ([], {"arrays": {"images": np.zeros((N, 3, 4, 4), np.uint8)}}, r"\[1, 4, 4\] .* uint8 \[3, 4, 4\]; set"),
        ([], {"arrays": {"images": np.zeros((N, 1, 4, 4), np.float32)}}, "float32"),
        ([], {"arrays": {"images": np.zeros((N, 3), np.uint8), "packed": True}}, r"\[3\], 8 pixels per byte"),
    ],
)
@unchecked()
def test_a_mistake_is_told_in_one_sentence_at_setup(needs, settings, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        toy(needs, **settings)
    assert "\n" not in str(error.value)


def test_check_size_names_the_sides_on_offer():
    check_size((3, 32, 32), (32, 64))
    for shape in ((3, 48, 48), (3, 32, 64)):
        with pytest.raises(UserError, match="image sides must be 32 or 64"):
            check_size(shape, (32, 64))


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def trainer(**attributes):
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(**({"global_step": 0, "global_rank": 0, "world_size": 1, "strategy": strategy} | attributes))


@unchecked()
def test_the_position_is_in_the_checkpoint_and_the_same_data_take_it_back():
    data = toy()
    data.trainer = trainer(global_step=42)
    state = data.state_dict()
    assert state["step"] == 42
    toy().load_state_dict(state)


@pytest.mark.parametrize("settings", [{"n": 400}, {"subset": 100}, {"batch_size": 32}, {"seed": 1}])
@unchecked()
def test_other_data_refuse_the_checkpoint(settings):
    data = toy()
    data.trainer = trainer()
    with pytest.raises(UserError, match="the checkpoint has .* restore the data"):
        toy(**settings).load_state_dict(data.state_dict())


@unchecked()
def test_loaders_take_rank_and_device_from_the_trainer():
    data = toy(batch_size=32)
    data.trainer = trainer(global_rank=1, world_size=2)
    stream = data.train_dataloader()
    assert same(next(iter(stream)), data.train_batch(0, 1, 2))
    assert flat(data.val_dataloader()) == data.indices["val"][1::2].tolist()
    batch = data.train_batch(0)
    assert data.transfer_batch_to_device(batch, "cpu", 0) is batch


def test_a_trainer_that_is_given_model_and_data_by_hand_trains_on_groups():
    from tests.models.builders import build
    from vae_zoo.training.trainer import Trainer

    model, seen = build("ml_vae", (1, 8, 8)), []
    objective = model.objective
    model.objective = lambda batch: (seen.append(batch["num_groups"]), objective(batch))[1]
    data = Digits(size=8, batch_size=32)
    Trainer(max_steps=2, accelerator="cpu", logger=False, limit_val_batches=0).fit(model, datamodule=data)
    assert seen == [16, 16]  # of two images each, not 32 of one
    assert model.training_data.num_images == data.num_train


def test_data_that_were_read_before_they_met_the_model_still_serve_it():
    from tests.models.builders import build

    data = Digits(size=8, batch_size=32)
    data.setup()
    assert "group" not in data.train_batch(0)
    data.serve(build("ml_vae", (1, 8, 8)))
    assert data.train_batch(0)["num_groups"] == 16


def test_labels_beyond_the_budget_are_hidden_also_where_a_group_or_factor_is_the_label():
    label = toy_arrays()["label"]
    arrays = {"groups": {"kind": 7 * label + 3, "finer": np.arange(N) // 11}}
    for by in ("label", "kind"):
        data = toy({"group"}, arrays=arrays, labelled=8, group_by=by, group_size=2, batch_size=8)
        sizes = np.unique(np.concatenate([data.train_batch(step)["group"].numpy() for step in range(3)]), return_counts=True)
        known = data.train_label[data.indices["train"]] >= 0
        assert known.sum() == 8
        group = data._groups.group[data.indices["train"]].numpy()
        shared = np.unique(group, return_counts=True)[1]
        assert shared[shared > 1].sum() <= 8, "only images whose label is known share a group"
        assert len(sizes)
    data = toy({"group"}, arrays=arrays, labelled=8, group_by="finer", group_size=2, batch_size=8)
    assert (np.unique(data._groups.group[data.indices["train"]].numpy(), return_counts=True)[1] > 1).sum() > 20


def test_without_training_images_or_with_impossible_folds_the_split_is_refused():
    with pytest.raises(UserError, match="no image of the data set is in its split train"):
        toy(arrays={"split": 1 + np.arange(N) % 2})
    for folds, fold in ((N + 1, 0), (3, 3)):
        with pytest.raises(UserError, match=f"data.folds must be above data.fold={fold} and at most"):
            toy(folds=folds, fold=fold)


def test_a_file_of_few_labels_may_lack_a_class(tmp_path):
    (tmp_path / "labels.csv").write_text("image,digit\n0,0\n1,5\n2,1\n3,0\n")
    settings = {"labels_from": str(tmp_path / "labels.csv")}
    assert toy(**settings).num_classes == 6
    assert toy(**settings, num_classes=10).num_classes == 10
    with pytest.raises(
        UserError, match="data.num_classes=3, but .*labels.csv has the label 5; set data.num_classes=6 or more"
    ):
        toy(**settings, num_classes=3)
