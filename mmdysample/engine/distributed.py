"""Launchers and process groups, also where mmengine needs a GPU to start one."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import timedelta

from mmengine.config import Config
from torch import distributed

from mmdysample.engine.errors import UserError, is_rank_zero

# What a launcher leaves in the environment of each process.
_NEEDED = {
    "none": (),
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
    "mpi": ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}
_STARTED_BY = {
    "pytorch": "torchrun (tools/dist_*.sh)",
    "slurm": "srun (tools/slurm_*.sh)",
    "mpi": "mpirun",
}
_WORLD_SIZE = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS", "mpi": "OMPI_COMM_WORLD_SIZE"}
_RANK = {"pytorch": "RANK", "slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK"}
_DEFAULT_PORT = "29500"


def check_launcher(launcher: str) -> None:
    """Raise UserError unless this process was started by ``launcher``."""
    missing = [name for name in _NEEDED[launcher] if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher} needs to be started by {_STARTED_BY[launcher]}: "
            f"{', '.join(missing)} not set in the environment"
        )


def world_size(launcher: str) -> int:
    """How many processes ``launcher`` has started."""
    return int(os.environ[_WORLD_SIZE[launcher]]) if launcher in _WORLD_SIZE else 1


def is_first_process(launcher: str) -> bool:
    """Whether this process is the first that ``launcher`` has started, before all are connected."""
    return launcher not in _RANK or os.environ.get(_RANK[launcher], "0") == "0"


def end_with_launcher(seconds: float = 1.0) -> None:
    """End this process soon after torchrun, which started it, is there no more.

    torchrun ends its processes whenever it can; killed outright it leaves them at work. A thread
    looks at the parent process's id, which also ends a process that waits for another one in a
    collective operation or sits in a validation; and which, unlike Linux's signal for the death of
    a parent, needs no foreign function. Checkpoints are written atomically, so it may end at once.
    """
    if not distributed.is_torchelastic_launched():
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(seconds)
        if is_rank_zero():
            print(
                "error: the launcher was ended, and this run with it; --resume continues training",
                file=sys.stderr,
                flush=True,
            )
        os._exit(1)

    threading.Thread(target=watch, name="end-with-launcher", daemon=True).start()


def leave_process_group() -> None:
    """Leave the process group, if there is one, at the end of a run that has succeeded.

    Its threads would otherwise meet the end of the interpreter: one that then lets go of a tensor
    is ended by Python in the midst of C++, which aborts the process ("terminate called without an
    active exception").
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        # The threads end with the last reference, and runner, hooks and model refer to each other.
        gc.collect()


def start_on_cpu(cfg: Config) -> None:
    """Start a gloo process group where there is no GPU, which mmengine's own start asks for."""
    if cfg.launcher == "none" or distributed.is_initialized():
        return
    _export_ranks(cfg.launcher)
    settings = dict(cfg.get("env_cfg", {}).get("dist_cfg", {}))
    timeout = settings.get("timeout")
    options = {} if timeout is None else dict(timeout=timedelta(seconds=timeout))
    distributed.init_process_group("gloo", **options)


def _export_ranks(launcher: str) -> None:
    """Translate a launcher's variables into those of PyTorch."""
    environment = os.environ
    if launcher == "slurm":
        environment["RANK"] = environment["SLURM_PROCID"]
        environment["WORLD_SIZE"] = environment["SLURM_NTASKS"]
        environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", "0")
        environment.setdefault("MASTER_ADDR", _first_host(environment["SLURM_NODELIST"]))
    elif launcher == "mpi":
        environment["RANK"] = environment["OMPI_COMM_WORLD_RANK"]
        environment["WORLD_SIZE"] = environment["OMPI_COMM_WORLD_SIZE"]
        environment["LOCAL_RANK"] = environment["OMPI_COMM_WORLD_LOCAL_RANK"]
        environment.setdefault("MASTER_ADDR", "127.0.0.1")
    environment.setdefault("MASTER_PORT", _DEFAULT_PORT)


def _first_host(nodes: str) -> str:
    if shutil.which("scontrol") is None:
        raise UserError(
            "--launcher slurm needs scontrol on PATH, or MASTER_ADDR set to the first node's name"
        )
    listed = subprocess.run(
        ["scontrol", "show", "hostname", nodes], capture_output=True, text=True, check=True
    )
    return listed.stdout.split()[0]
