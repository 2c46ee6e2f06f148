"""Runs the commands as a person would: in a process of their own, in a folder of their own."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def command(script: str, *words: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / f"{script}.py"), *map(str, words)]


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | extra


def start(folder: Path, script: str, *words: str, **extra: str) -> subprocess.Popen:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command(script, *words), cwd=folder, env=environment(**extra), **options)


def run(folder: Path, script: str, *words: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess:
    """The finished process; fails the test with its output unless it ends with `code`."""
    done = subprocess.run(
        command(script, *words), cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, f"{script} {words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


@contextmanager
def served(folder: Path, *words: str):
    """The address of a page that a process of its own serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = folder / "explorer.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            command("explore", f"port={port}", *words), cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 300
        while "the explorer is at" not in said.read_text():
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert "Traceback" not in said.read_text(), said.read_text()
