"""The file that keeps a namespace's reservations through a loss of power: SPDK's, which reads ours as we read its."""

from __future__ import annotations

import json
import uuid as uuid_module
from pathlib import Path

from ..jsonrpc.params import array, boolean, obj, string, uint32, uint64
from ..jsonrpc.registry import Param
from .reservations import MOST_REGISTRANTS, Saved

_REGISTRANT = obj({"rkey": Param(uint64, required=True), "host_uuid": Param(string, required=True)})
_CONTENT = obj(
    {
        "ptpl": Param(boolean, default=False),
        "rtype": Param(uint32, default=0),
        "crkey": Param(uint64, default=0),
        "bdev_uuid": Param(string, required=True),
        "holder_uuid": Param(string, default=""),
        "registrants": Param(array(_REGISTRANT, MOST_REGISTRANTS), required=True),
    }
)


def load(path: str, bdev: uuid_module.UUID) -> Saved | None:
    """None: there is no such file, or nothing is to be kept. ``bdev`` is the UUID that the file has to be for.

    Raises ``OSError``; ``ValueError`` for a file of another bdev, or one that was not written as :func:`store` does.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    content = _CONTENT(json.loads(text))
    if not content["ptpl"] or not content["registrants"]:
        return None
    if uuid_module.UUID(content["bdev_uuid"]) != bdev:
        raise ValueError(f"{path}: it is for the bdev {content['bdev_uuid']}, this one is {bdev}")
    registrants = [(each["rkey"], uuid_module.UUID(each["host_uuid"])) for each in content["registrants"]]
    holder = uuid_module.UUID(content["holder_uuid"]) if content["holder_uuid"] else None
    return Saved(content["rtype"], content["crkey"], holder, registrants)


def store(path: str, bdev: uuid_module.UUID, saved: Saved | None) -> None:
    """``saved`` None: nothing is to be kept any more, which empties the file. Raises ``OSError``."""
    text = ""
    if saved is not None:
        content = {
            "ptpl": True,
            "rtype": saved.type,
            "crkey": saved.key,
            "bdev_uuid": str(bdev),
            "holder_uuid": str(saved.holder or ""),
            "registrants": [{"rkey": key, "host_uuid": str(host)} for key, host in saved.registrants],
        }
        text = json.dumps(content, separators=(",", ":"))
    Path(path).write_text(text, encoding="utf-8")
