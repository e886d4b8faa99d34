"""One training run per work dir: two would write each other's checkpoints."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from mmdysample.errors import UserError

LOCK_FILE = ".train.lock"


@contextlib.contextmanager
def only_run_in(work_dir: str) -> Iterator[None]:
    """Keep other processes from training in ``work_dir`` for the time of the block.

    The lock belongs to the process (``fcntl.lockf``, not ``flock``, which the data loader's workers
    would inherit and hold on to for some seconds): it ends with it, however that ends, and nothing
    is left to clear up but an empty file. File systems without locks, as some mounts of NFS are,
    protect nothing.

    Raises:
        UserError: another process trains there.
    """
    with open(os.path.join(work_dir, LOCK_FILE), "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"another training is running in work dir {work_dir}: wait until it has "
                    "ended, or choose another --work-dir"
                ) from None
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
