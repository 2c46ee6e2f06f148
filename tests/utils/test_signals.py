"""Signals to stop: which are taken, what a second one does, and what belongs to a launcher."""

import os
import signal
import sys
import time

import pytest

from vae_zoo.cli import run as cli_run
from vae_zoo.utils import signals
from vae_zoo.utils.signals import Interrupted, Signals, exit_code, handled, stopping


def test_while_a_run_can_save_one_signal_of_each_kind_stops_nothing_at_once(monkeypatch):
    stop = Signals()
    with pytest.raises(Interrupted), stop.saving():
        for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):  # SLURM's warning, then its end, sent on by a parent
            stop(signum, None)
        assert stop.received == signal.SIGUSR1
        monkeypatch.setattr(signals, "SAME", 0)
        with pytest.raises(KeyboardInterrupt):
            stop(signal.SIGTERM, None)


def test_where_nothing_can_be_saved_the_first_signal_stops_at_once_and_another_kind_does_not_disturb():
    stop = Signals()
    with pytest.raises(KeyboardInterrupt):
        stop(signal.SIGUSR2, None)
    stop(signal.SIGTERM, None)
    assert stop.received == signal.SIGUSR2 and exit_code(stop.received) == 143 and exit_code(signal.SIGINT) == 130


def test_handlers_of_a_launcher_and_of_nohup_stay():
    def of_submitit(signum, frame):
        """Requeues the job."""

    before = signal.signal(signal.SIGUSR2, of_submitit), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        taken = stopping()
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU} == {*taken}
        with handled(Signals(), *taken):
            assert signal.getsignal(signal.SIGUSR2) is of_submitit
            assert signal.SIGUSR1 in stopping(), "what an outer command of ours has taken is ours to take"
    finally:
        signal.signal(signal.SIGUSR2, before[0])
        signal.signal(signal.SIGHUP, before[1])
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGXCPU, signal.SIGTERM])
def test_command_that_waits_for_a_job_sends_its_signal_on(tmp_path, monkeypatch, signum):
    job = (
        "import os, signal, sys, time; from vae_zoo.utils.signals import Signals, handled, stopping\n"
        "stop = Signals()\n"
        "with handled(stop, *stopping()):\n"
        f"    try: os.kill(os.getppid(), {int(signum)}); time.sleep(20)\n"
        "    except KeyboardInterrupt: sys.exit(stop.received)\n"
    )
    popen = cli_run.subprocess.Popen
    monkeypatch.setattr(cli_run.subprocess, "Popen", lambda words, **options: popen([sys.executable, "-c", job], **options))
    started = time.monotonic()
    code, received = cli_run.start_process(tmp_path, "--fresh", "", environment=dict(os.environ))
    assert (code, received) == (signum, signum) and time.monotonic() - started < 15
