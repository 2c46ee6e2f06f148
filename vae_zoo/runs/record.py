"""Reads sweep.yaml, the record of a sweep: folder and overrides of each job."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Job:
    """A job of a sweep. words: its overrides."""

    words: tuple[str, ...]
    folder: Path


def read_record(record: Path) -> list[Job]:
    """The jobs in sweep.yaml; [] if it does not exist, or belongs to another program."""
    try:
        found = yaml.safe_load((record / "sweep.yaml").read_text())
    except FileNotFoundError:
        return []
    listed = found.get("jobs") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        return []
    return [Job(tuple(job["overrides"]), Path(os.path.normpath(record / job["folder"]))) for job in listed]
