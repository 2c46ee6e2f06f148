"""For all tests: one thread, no network, one cache of drawn data."""

import gc
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock

from tests import annotations

annotations.check()  # before anything of vae_zoo is imported

LOCAL = {None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()}


def pytest_collection_finish(session):
    """What is imported stays: collecting garbage, as Lightning does after every training, need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread_and_remembered_configs():
    """Imported here, so that the process of pytest-xdist that only hands out the tests starts at once."""
    import torch

    from tests import compositions

    torch.set_num_threads(1)
    compositions.remember()


@pytest.fixture(autouse=True)
def no_network(request, monkeypatch):
    """Whoever asks for another machine is told so at once, in this process; tests marked `net` may."""
    if request.node.get_closest_marker("net"):
        return
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def refuse_others(host):
        if (host.decode() if isinstance(host, bytes) else host) not in LOCAL:
            raise OSError(f"tests must not touch the network, and this one asks for {host}")

    def local_look_up(host, *args, **kwargs):
        refuse_others(host)
        return look_up(host, *args, **kwargs)

    def local_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse_others(address[0])
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", local_look_up)
    monkeypatch.setattr(socket.socket, "connect", local_connect)


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Where users keep drawn data too, so that a machine draws dSprites once."""
    return Path(os.environ.get("VAE_ZOO_CACHE", "~/.cache/vae_zoo")).expanduser()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, worker_id) -> Path:
    """A run of 5 steps that nobody may change; whichever process of pytest needs it first trains it for all."""
    from tests.cli.calls import TINY, call

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "finished"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            folder.mkdir()
            answer = call(folder, f"train {TINY} model=vae hydra.run.dir=run")
            assert answer.code == 0, answer.err
    return folder / "run"


@pytest.fixture
def copy_of_run(finished_run, tmp_path):
    def copy(name: str = "run") -> Path:
        return Path(shutil.copytree(finished_run, tmp_path / name))

    return copy


@pytest.fixture
def jobs_in_this_process(monkeypatch):
    """The jobs of a sweep, each of which is else a process of its own with all its imports."""
    from vae_zoo.cli import run as cli_run
    from vae_zoo.runs.train import main

    def run(words, env, pass_fds):
        with pytest.MonkeyPatch.context() as patch:
            for name in {name for name in env if os.environ.get(name) != env[name]}:
                patch.setenv(name, env[name])
            code = main(words[words.index("vae_zoo.runs.train") + 1 :])
        return SimpleNamespace(pid=os.getpid(), wait=lambda: code)

    monkeypatch.setattr(cli_run, "subprocess", SimpleNamespace(Popen=run))


@pytest.fixture
def small_evaluation(monkeypatch):
    """Judges and probes see few images a few times, charts are black: what they say and show is tested elsewhere."""
    shrink_evaluation(monkeypatch)


def shrink_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """`small_evaluation` for fixtures of a module."""
    from tests import small

    small.evaluation(monkeypatch)
