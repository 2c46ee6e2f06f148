"""Threads that wait give their core away, unless the user says how they wait; their number respects affinity."""

import os
from types import SimpleNamespace

import psutil
import pytest
import torch

from vae_zoo.utils import threads

CHOICES = ("OMP_WAIT_POLICY", *threads.WAITING)


@pytest.fixture
def environment(monkeypatch):
    """Without what the machine of the test says; restored afterwards."""
    for name in CHOICES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_threads_wait_briefly_by_default(environment):
    threads.wait_briefly()
    assert {name: os.environ[name] for name in threads.WAITING} == threads.WAITING


@pytest.mark.parametrize("name, value", [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7"), ("KMP_BLOCKTIME", "200")])
def test_the_user_says_how_threads_wait(environment, name, value):
    environment.setenv(name, value)
    threads.wait_briefly()
    assert {n: os.environ[n] for n in CHOICES if n in os.environ} == {name: value}


def test_no_more_threads_than_cores_that_this_process_may_use(environment):
    environment.delenv(threads.THREADS)
    environment.setattr(os, "sched_getaffinity", lambda pid: {0})
    environment.setattr(threads, "cores_are_shared", lambda: False)
    before = torch.get_num_threads()
    try:
        assert threads.num_cores() == threads.set_threads() == 1
        assert threads.set_threads(3) == 3, "those of the run that is continued"
        environment.setenv(threads.THREADS, str(before))
        assert threads.set_threads(2) == 3, "the user's number stands, torch read it when it started"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "cores, quota, others, expected",
    [
        (2, 2, 0.0, False),
        (2, 2, 0.4, False),  # less than a quarter of the cores
        (2, 2, 1.0, True),
        (2, 2, 2.0, True),
        (64, 64, 1.0, False),
        (64, 64, 20.0, True),
        (64, 2, 20.0, False),  # a container with a quota of two cores, on a machine with 42 free ones
        (64, 2, 63.5, True),
    ],
)
def test_two_threads_a_core_where_other_processes_use_a_quarter_of_the_cores(environment, cores, quota, others, expected):
    now = [0.0]
    environment.delenv(threads.THREADS)
    environment.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    environment.setattr(threads, "num_cores", lambda: quota)
    environment.setattr(threads.time, "monotonic", lambda: now[0])
    environment.setattr(threads.time, "process_time", lambda: now[0])  # this process keeps a core busy by itself
    environment.setattr(threads.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    core = (others + 1) / cores
    each = lambda percpu: [SimpleNamespace(user=now[0] * core, nice=0.0, system=0.0)] * cores  # noqa: E731
    environment.setattr(psutil, "cpu_times", each)
    assert threads.cores_are_shared() is expected
    before = torch.get_num_threads()
    try:
        assert threads.set_threads() == quota * (2 if expected else 1)
    finally:
        torch.set_num_threads(before)
