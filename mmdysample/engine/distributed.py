"""Launchers and process groups, also where mmengine needs a GPU to start one."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from datetime import timedelta

from mmengine.config import Config
from torch import distributed

from mmdysample.engine.errors import is_rank_zero
from mmdysample.errors import UserError

# What a launcher leaves in the environment of each process: its rank, how many there are, and more.
_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
    "mpi": (
        *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"),
    ),
}
_STARTED_BY = {
    "pytorch": "torchrun (tools/dist_*.sh)",
    "slurm": "srun (tools/slurm_*.sh)",
    "mpi": "mpirun with MASTER_ADDR exported",
}


def check_launcher(launcher: str) -> None:
    """Raise UserError unless this process was started by ``launcher``."""
    missing = [name for name in _VARIABLES.get(launcher, ()) if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher} needs to be started by {_STARTED_BY[launcher]}: "
            f"{', '.join(missing)} not set in the environment"
        )


def is_first_process(launcher: str) -> bool:
    """Whether this process is the first that ``launcher`` has started, before all are connected."""
    return launcher == "none" or os.environ.get(_VARIABLES[launcher][0], "0") == "0"


def end_with_launcher(seconds: float = 1.0) -> None:
    """End this process soon after torchrun, which started it, has ended.

    torchrun ends its processes whenever it can; killed outright it leaves them running. A thread
    looks at the parent process's id, which also ends a process that waits for another one in a
    collective operation. Checkpoints are written atomically, so it may end at once.
    """
    if not distributed.is_torchelastic_launched():
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(seconds)
        if is_rank_zero():
            text = "the launcher was ended, and this run with it; --resume continues training"
            print(f"error: {text}", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-launcher", daemon=True).start()


def start_on_cpu(cfg: Config) -> None:
    """Start the gloo process group of torchrun's processes, as mmengine does on GPUs.

    Raises:
        UserError: the launcher is one that mmengine alone can start.
    """
    if cfg.launcher != "pytorch":
        raise UserError(
            f"--launcher {cfg.launcher} needs a GPU, and there is none here: on CPUs use "
            f"{_STARTED_BY['pytorch']}"
        )
    timeout = cfg.env_cfg["dist_cfg"].get("timeout")
    options = {} if timeout is None else dict(timeout=timedelta(seconds=timeout))
    distributed.init_process_group("gloo", **options)


def leave_process_group() -> None:
    """Leave the process group, if there is one, at the end of a run that has succeeded.

    Its threads would otherwise meet the end of the interpreter: one that then lets go of a tensor
    is ended by Python while C++ code runs, which aborts the process ("terminate called without an
    active exception").
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        end_threads_of_gloo()


def end_threads_of_gloo(seconds: float = 0.2) -> None:
    """Delete process groups that nothing but cycles of references holds, and so end their threads.

    A thread whose operation is done lets go of the tensors. For that it needs the interpreter, and
    it holds a lock that deleting the group needs too: if this thread held the interpreter then, and
    waited for the lock, both would wait for ever. It sleeps first, which leaves the interpreter to
    those that wait for it.
    """
    time.sleep(seconds)
    # Runner, hooks and model, which holds the group, refer to each other.
    gc.collect()
