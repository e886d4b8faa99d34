"""``python -m mmdysample.engine.launch``: torchrun whose processes have the last word.

It takes torchrun's arguments; before them may stand ``--command=N`` and the N words of the user's
command, if ``--resume`` can continue it. Where a process of the run has ended with a sentence about
a user's error, torchrun alone would add a traceback and another exit status; where one was killed,
it would not say how to continue.
"""

from __future__ import annotations

import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from mmdysample.engine.errors import (
    INTERRUPTED_STATUS,
    USER_ERROR_STATUS,
    command_to_continue,
)

COMMAND_OPTION = "--command="


def main(arguments: list[str]) -> int:
    """Run torchrun with its own arguments and return the exit status."""
    command: list[str] = []
    if arguments and arguments[0].startswith(COMMAND_OPTION):
        first = 1 + int(arguments[0].removeprefix(COMMAND_OPTION))
        command, arguments = arguments[1:first], arguments[first:]
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
        _say_how_to_continue(command)
        return 1
    except SignalException as error:
        # The processes have been told; at an interrupt they have said what there is to say.
        if error.sigval != signal.SIGINT:
            _say_how_to_continue(command)
        return 128 + error.sigval
    return 0


def _killed(statuses: dict[int, int]) -> dict[int, int]:
    """The processes that a signal ended, and its number."""
    signals = {rank: -status for rank, status in statuses.items() if status < 0}
    # torchrun ends the others by SIGTERM.
    first = {rank: number for rank, number in signals.items() if number != signal.SIGTERM}
    return first or (signals if len(signals) == len(statuses) else {})


def _say_how_to_continue(command: list[str]) -> None:
    if command:
        print(f"to continue: {command_to_continue(command)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
