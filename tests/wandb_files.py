"""What an offline run of W&B holds, read from its file as `wandb sync` would."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read(folder: Path) -> dict[str, Any]:
    """{"run": its record, "config": {}, "history": [{}], "summary": {}}; wandb's service may end it a moment later."""
    for _ in range(100):
        records = list(_records(next(folder.glob("*.wandb")).read_bytes()))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            break
        time.sleep(0.1)
    kinds = [record.WhichOneof("record_type") for record in records]
    found: dict[str, Any] = {"config": {}, "history": [], "summary": {}}
    for kind, record in zip(kinds, records):
        if kind == "run":
            found["run"] = record.run
            found["config"] |= _values(record.run.config.update)
        elif kind == "config":
            found["config"] |= _values(record.config.update)
        elif kind == "history":
            found["history"].append(_values(record.history.item))
        elif kind == "summary":
            found["summary"] |= _values(record.summary.update)
    return found


def _values(items) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *above, last = item.nested_key or [item.key]
        place = values
        for name in above:  # of pictures and tables
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
    return values


def _records(content: bytes) -> Iterator:
    """Protocol buffers in LevelDB's log format: blocks of 32 KiB, each part of a record with a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block that holds no header
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if place + 7 + length > len(content):
            return  # the service is still writing it
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""
