"""Threads that wait give their core away, unless the user says how they wait; their number respects affinity."""

import os

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
    before = torch.get_num_threads()
    try:
        assert threads.num_cores() == threads.set_threads() == 1
        assert threads.set_threads(3) == 3, "those of the run that is continued"
        environment.setenv(threads.THREADS, str(before))
        assert threads.set_threads(2) == 3, "the user's number stands, torch read it when it started"
    finally:
        torch.set_num_threads(before)
