"""What the hosts share for reading other people's checkpoints."""

from __future__ import annotations

from typing import Any


def count_stages(state_dict: dict[str, Any], prefix: str) -> int:
    """How many numbered modules ``prefix0.*``, ``prefix1.*``, ... ``state_dict`` holds."""
    return len({key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)})


def rename_prefix(state_dict: dict[str, Any], old: str, new: str) -> None:
    """Rename, in place, every key that starts with ``old``."""
    for key in [key for key in state_dict if key.startswith(old)]:
        state_dict[new + key[len(old) :]] = state_dict.pop(key)
