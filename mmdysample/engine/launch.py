"""``python -m mmdysample.engine.launch``: torchrun whose children have the last word.

Where a process of the run has ended with a sentence about a user's error, torchrun would add
a traceback of its own and another exit status.
"""

from __future__ import annotations

import socket
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from mmdysample.engine.errors import INTERRUPTED_STATUS, USER_ERROR_STATUS

DEFAULT_PORT = 29500


def free_port(wanted: int = DEFAULT_PORT) -> int:
    """``wanted`` if nobody on this machine listens there, else a port that is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As the server will do it: a port that a finished run has just left is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise OSError("no free port on this machine")


def main(arguments: list[str]) -> int:
    """Run torchrun with its own arguments; ``--master_port=auto`` stands for a free one."""
    arguments = [
        f"--master_port={free_port()}" if argument == "--master_port=auto" else argument
        for argument in arguments
    ]
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        statuses = {failure.exitcode for failure in error.failures.values()}
        for status in (USER_ERROR_STATUS, INTERRUPTED_STATUS):
            if status in statuses:
                return status
        raise
    except SignalException as error:
        # The processes have been told, and have said what there is to say.
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
