"""`cached_array`: built once, verified when it has changed, never worse than no cache. `stored`: the same in parts."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from vae_zoo.data.storage import cache as storage
from vae_zoo.data.storage.cache import cached_array, stored
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
    assert sorted(file.name for file in cache.path.parent.iterdir()) == ["array.npy", "array.npy.json"]


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
        lambda path: path.with_name("array.npy.json").unlink(),
        lambda path: path.with_name("array.npy.json").write_bytes(b"\xff"),
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
    assert len(caplog.records) == 1 and "array.npy cannot be written (" in caplog.text


def test_full_disk_leaves_no_half_file(cache, caplog, monkeypatch):
    def fail(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    assert np.array_equal(cache.open(), ARRAY)
    assert cache.builds == 1 and len(caplog.records) == 1 and not cache.path.parent.exists()


def test_a_checksum_is_compared_only_after_size_or_time_has_changed(cache, monkeypatch, caplog):
    cache.open()
    compared = []
    checksum = storage._checksum
    monkeypatch.setattr(storage, "_checksum", lambda *of: compared.append(1) or checksum(*of))
    cache.open()
    assert not compared
    os.utime(cache.path, ns=(5, 5))
    for _ in range(2):
        assert np.array_equal(cache.open(), ARRAY)
    assert len(compared) == 1 and cache.builds == 1 and not caplog.records


def test_of_simultaneous_builders_one_builds_and_all_get_the_array(cache, caplog):
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(array, ARRAY) for array in pool.map(lambda _: cache.open(), range(8)))
    assert cache.builds == 1 and len(list(cache.path.parent.iterdir())) == 2
    assert all("waiting for it" in record.message for record in caplog.records)


def test_an_array_that_appears_after_the_look_into_the_cache_is_not_built_again(cache, monkeypatch):
    kept, other = storage._kept, Cache(cache.path)

    def overtaken(*args):
        found = kept(*args)
        monkeypatch.setattr(storage, "_kept", kept)
        other.open()
        return found

    monkeypatch.setattr(storage, "_kept", overtaken)
    assert np.array_equal(cache.open(), ARRAY) and (cache.builds, other.builds) == (0, 1)
    assert len(list(cache.path.parent.iterdir())) == 2


# ---- in parts -------------------------------------------------------------------------------------------------------


class Parts:
    """ARRAY in ten parts; a build stops after `until` of them."""

    def __init__(self, path):
        self.path, self.until, self.built, self.error = path, 10, [], KeyboardInterrupt()

    def build(self, state):
        for part in range(state.get("part", 0), 10):
            if part == self.until:
                raise self.error
            self.built.append(part)
            yield ARRAY[10 * part : 10 * part + 10], {"part": part + 1}

    def open(self, rows=100):
        return stored(self.path, self.build, (rows, 30), lambda: 100)


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path / "new" / "array.npy")


def test_parts_are_one_array_in_the_file_and_built_once(parts, caplog):
    for _ in range(2):
        array, state = parts.open()
        assert np.array_equal(array, ARRAY) and isinstance(array, np.memmap) and state == {"part": 10}
    assert parts.built == [*range(10)] and not caplog.records
    assert np.array_equal(np.load(parts.path), ARRAY) and len(list(parts.path.parent.iterdir())) == 2


@pytest.mark.parametrize("until", [1, 5, 9])
def test_an_interrupted_build_goes_on_and_its_file_is_that_of_an_uninterrupted_one(parts, tmp_path, until):
    whole = Parts(tmp_path / "whole.npy")
    whole.open()
    parts.until = until
    with pytest.raises(KeyboardInterrupt):
        parts.open()
    with (parts.path.parent / "array.npy.part").open("ab") as file:
        file.write(b"half a part")
    parts.until = 10
    assert np.array_equal(parts.open()[0], ARRAY)
    assert parts.built == [*range(10)], "no part twice"
    assert parts.path.read_bytes() == whole.path.read_bytes() and len(list(parts.path.parent.iterdir())) == 2


@pytest.mark.parametrize("damage", [flip_last_byte, lambda path: path.write_bytes(path.read_bytes()[:200])])
def test_a_damaged_unfinished_file_is_begun_anew(parts, damage):
    parts.until = 5
    with pytest.raises(KeyboardInterrupt):
        parts.open()
    damage(parts.path.parent / "array.npy.part")
    parts.until = 10
    assert np.array_equal(parts.open()[0], ARRAY) and parts.built == [*range(5), *range(10)]


def test_number_of_rows_may_be_left_to_the_build(parts):
    def build(state):
        yield ARRAY[:7], {}
        yield ARRAY[:0], {}
        yield ARRAY[7:20], {}

    for _ in range(2):
        array, _ = stored(parts.path, build, (-1, 30), lambda: 100)
        assert np.array_equal(array, ARRAY[:20])


def test_parts_that_break_off_with_an_error_leave_nothing(parts):
    parts.until, parts.error = 5, UserError("the file ends here")
    with pytest.raises(UserError, match="the file ends here"):
        parts.open()
    assert not parts.path.parent.exists()


def test_too_small_a_disk_is_told_with_the_bytes_needed_before_anything_is_built(parts, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2999))
    with pytest.raises(UserError, match=r"only 2,999 bytes are free.; set paths.cache to a folder with 3,000 bytes of free"):
        parts.open()
    assert not parts.built and not parts.path.parent.exists()


@pytest.mark.parametrize("shown", [None, "rows"])
def test_a_log_has_lines_of_progress_only_where_they_are_wanted(parts, caplog, monkeypatch, shown):
    caplog.set_level("INFO")
    monkeypatch.setattr("vae_zoo.utils.console.progress.__wrapped__.__defaults__", (0, 0.0))
    stored(parts.path, parts.build, (100, 30), lambda: 100, unit=shown)
    assert len(caplog.records) == (10 if shown else 0)
    assert not shown or caplog.messages[4].startswith("rows 50 of 100, ")


def test_killed_just_before_the_end_the_next_start_does_not_write_it_again(cache, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage.os, "replace", Mock(side_effect=[None, KeyboardInterrupt]))
        cache.open()
    assert np.array_equal(cache.open(), ARRAY)
