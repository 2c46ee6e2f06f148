"""`cached_array`: built once, verified at every opening, never worse than no cache."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from vae_zoo.data.storage.cache import cached_array, cached_parts
from vae_zoo.utils.errors import UserError

ARRAY = np.arange(3000, dtype=np.uint8).reshape(100, 30)


class Cache:
    """A cache of ARRAY that counts how often it is built."""

    def __init__(self, path):
        self.path, self.builds = path, 0

    def build(self):
        self.builds += 1
        return ARRAY.copy()

    def open(self, shape=ARRAY.shape, dtype=ARRAY.dtype):
        return cached_array(self.path, self.build, shape=shape, dtype=dtype)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "new" / "folder" / "array.npy")


def test_second_opening_reads_the_file_and_builds_nothing(cache, caplog):
    for _ in range(2):
        assert np.array_equal(cache.open(), ARRAY)
    assert cache.builds == 1 and not caplog.records


def test_only_the_array_and_its_checksum_stay(cache):
    cache.open()
    assert sorted(file.name for file in cache.path.parent.iterdir()) == ["array.npy", "array.npy.crc32"]


def test_torch_takes_the_array_and_writing_to_it_leaves_the_file_alone(cache):
    cache.open()
    torch.from_numpy(cache.open()).zero_()
    assert np.array_equal(cache.open(), ARRAY) and cache.builds == 1


def flip_last_byte(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [
        flip_last_byte,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_name("array.npy.crc32").unlink(),
        lambda path: path.with_name("array.npy.crc32").write_bytes(b"\xff"),
    ],
    ids=["flipped_byte", "truncated", "empty", "no_checksum", "damaged_checksum"],
)
def test_damaged_file_is_built_anew_with_one_warning(cache, caplog, damage):
    cache.open()
    damage(cache.path)
    for _ in range(2):
        assert np.array_equal(cache.open(), ARRAY)
    assert cache.builds == 2 and len(caplog.records) == 1 and "cannot be used and is computed again" in caplog.text
    assert len(list(cache.path.parent.iterdir())) == 2


@pytest.mark.parametrize("other", [ARRAY.T.copy(), ARRAY.astype(np.int8)], ids=["shape", "dtype"])
def test_file_of_another_form_is_built_anew_with_one_warning(cache, caplog, other):
    cached_array(cache.path, lambda: other, shape=other.shape, dtype=other.dtype)
    assert np.array_equal(cache.open(), ARRAY)
    assert cache.builds == 1 and len(caplog.records) == 1 and "must be uint8 (100, 30)" in caplog.text


def test_build_of_another_form_is_refused_and_not_kept(cache):
    with pytest.raises(ValueError, match=r"must be uint8 \(3,\), got uint8 \(100, 30\)"):
        cache.open(shape=(3,))
    assert not cache.path.exists()


def test_failed_build_leaves_nothing(cache):
    with pytest.raises(ZeroDivisionError):
        cached_array(cache.path, lambda: 1 / 0, shape=(1,), dtype=np.uint8)
    assert cache.open().shape == ARRAY.shape and len(list(cache.path.parent.iterdir())) == 2


def test_without_a_writable_folder_the_array_is_built_with_one_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "array.npy")
    assert np.array_equal(cache.open(), ARRAY)
    assert len(caplog.records) == 1 and "cannot be written, so every process" in caplog.text


def test_full_disk_leaves_no_half_file(cache, caplog, monkeypatch):
    def fail(file):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    assert np.array_equal(cache.open(), ARRAY)
    assert len(caplog.records) == 1 and not list(cache.path.parent.iterdir())


def test_simultaneous_builders_all_get_the_array_and_leave_a_good_file(cache, caplog):
    barrier = Barrier(8)

    def build():
        barrier.wait(timeout=10)
        return ARRAY.copy()

    def open_(_):
        return cached_array(cache.path, build, shape=ARRAY.shape, dtype=ARRAY.dtype)

    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(array, ARRAY) for array in pool.map(open_, range(8)))
    cache.open()
    assert cache.builds == 0 and not caplog.records and len(list(cache.path.parent.iterdir())) == 2


# ---- in parts -------------------------------------------------------------------------------------------------------


def test_parts_are_one_array_in_the_file_and_built_once(cache, caplog):
    built = []

    def build():
        built.append(1)
        yield from np.array_split(ARRAY, 7)

    for _ in range(2):
        array = cached_parts(cache.path, build, shape=ARRAY.shape, dtype=ARRAY.dtype)
        assert np.array_equal(array, ARRAY) and isinstance(array, np.memmap)
    assert len(built) == 1 and not caplog.records
    assert np.array_equal(np.load(cache.path), ARRAY) and len(list(cache.path.parent.iterdir())) == 2


def test_parts_that_break_off_leave_nothing(cache):
    def build():
        yield ARRAY[:50]
        raise UserError("the file ends here")

    with pytest.raises(UserError, match="the file ends here"):
        cached_parts(cache.path, build, shape=ARRAY.shape, dtype=ARRAY.dtype)
    assert not list(cache.path.parent.iterdir())


def test_parts_that_cannot_be_written_are_told_with_what_they_need(cache, monkeypatch):
    def fail(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(
        UserError, match="array.npy cannot be written .No space left on device.; set paths.cache to a folder with 0.0 GB"
    ):
        cached_parts(cache.path, lambda: iter([ARRAY]), shape=ARRAY.shape, dtype=ARRAY.dtype)
    assert not list(cache.path.parent.iterdir())
