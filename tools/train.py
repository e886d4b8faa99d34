"""Train a detector (mmdet) or a segmentor (mmseg) from a config."""

from __future__ import annotations

import os
import shlex
import sys

from mmengine.registry import RUNNERS

from mmdysample.engine.checkpoint import install_safe_loading
from mmdysample.engine.config import (
    NEEDED_TO_TRAIN,
    CfgOptions,
    enable_amp,
    enable_auto_scale_lr,
    fit_to_machine,
    load_config,
    set_work_dir,
)
from mmdysample.engine.errors import ArgumentParser, add_hint, run_tool
from mmdysample.engine.families import family_of
from mmdysample.engine.resume import plan_resume
from mmdysample.engine.runner import RestartableRunner


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints")
    parser.add_argument("--amp", action="store_true", help="mixed precision (on a GPU)")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the batch size over auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue a run from this checkpoint, or from the newest one of the work dir",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help="settings that replace those of the config, such as optim_wrapper.optimizer.lr=0.01; "
        'a list is KEY="[a,b]" or KEY=a,b, nested KEY="[(a,b),(c,d)]", without white space',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="job launcher",
    )
    # torch.distributed.launch passes one of the two, torchrun sets LOCAL_RANK instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, NEEDED_TO_TRAIN)
    family_of(cfg).prepare()
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    set_work_dir(cfg, args.work_dir, args.config)
    install_safe_loading()
    plan_resume(cfg, args.resume)
    fit_to_machine(cfg, args.launcher)
    try:
        build_runner(cfg).train()
    except (KeyboardInterrupt, OSError) as error:
        again = shlex.join(
            ["python", sys.argv[0], args.config, "--work-dir", cfg.work_dir, "--resume"]
        )
        if args.launcher != "none":
            again = "the same command with --resume"
        add_hint(error, f"to continue: {again}")
        raise


def build_runner(cfg):
    if "runner_type" in cfg:
        return RUNNERS.build(cfg)
    return RestartableRunner.from_cfg(cfg)


if __name__ == "__main__":
    sys.exit(run_tool(main))
