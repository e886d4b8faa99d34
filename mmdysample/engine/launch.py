"""``python -m mmdysample.engine.launch``: torchrun whose processes have the last word.

It takes torchrun's arguments. Where a process of the run has ended with a sentence about a user's
error, torchrun alone would add a traceback and another exit status; where one was killed, it would
not say how to continue.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from mmdysample.engine.errors import INTERRUPTED_STATUS, USER_ERROR_STATUS

# The words of the user's command, a line each, if ``--resume`` can continue it.
COMMAND_VARIABLE = "MMDYSAMPLE_COMMAND"


def main(arguments: list[str]) -> int:
    """Run torchrun with its own arguments and return the exit status."""
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        statuses = {rank: failure.exitcode for rank, failure in error.failures.items()}
        for status in (USER_ERROR_STATUS, INTERRUPTED_STATUS):
            if status in statuses.values():
                return status
        killed = _killed(statuses)
        if not killed:
            raise
        for rank, number in killed.items():
            name = signal.Signals(number).name
            print(f"error: process {rank} of the run was ended by {name}", file=sys.stderr)
        _say_how_to_continue()
        return 1
    except SignalException as error:
        # The processes have been told; at an interrupt they have said what there is to say.
        if error.sigval != signal.SIGINT:
            _say_how_to_continue()
        return 128 + error.sigval
    return 0


def _killed(statuses: dict[int, int]) -> dict[int, int]:
    """The processes that a signal ended, and its number."""
    signals = {rank: -status for rank, status in statuses.items() if status < 0}
    # torchrun ends the others by SIGTERM.
    first = {rank: number for rank, number in signals.items() if number != signal.SIGTERM}
    return first or (signals if len(signals) == len(statuses) else {})


def _say_how_to_continue() -> None:
    command = os.environ.get(COMMAND_VARIABLE, "").split("\n")[:-1]
    if command:
        print(f"to continue: {shlex.join(resuming(command))}", file=sys.stderr, flush=True)


def resuming(command: list[str]) -> list[str]:
    """A command with ``--resume`` alone, which takes the newest checkpoint, at its end."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word == "--resume":
            following = next(words, None)
            # A checkpoint's path.
            if following is not None and following.startswith("-"):
                kept.append(following)
        elif not word.startswith("--resume="):
            kept.append(word)
    return [*kept, "--resume"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
