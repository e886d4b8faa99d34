"""Train a detector (mmdet) or a segmentor (mmseg) from a config."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import nullcontext

from mmengine.config import Config

from mmdysample.engine.arguments import parse, tool_parser
from mmdysample.engine.checkpoint import install_safe_loading
from mmdysample.engine.checks import TRAINING, check_config
from mmdysample.engine.config import (
    NEEDED_TO_TRAIN,
    enable_amp,
    enable_auto_scale_lr,
    fit_to_machine,
    load_config,
    set_work_dir,
)
from mmdysample.engine.distributed import is_first_process, leave_process_group
from mmdysample.engine.errors import doing, is_rank_zero, run_tool
from mmdysample.engine.families import import_family
from mmdysample.engine.lock import only_run_in
from mmdysample.engine.record import record_start
from mmdysample.engine.resume import can_continue, plan_resume
from mmdysample.engine.runner import build_runner


def parse_args():
    parser = tool_parser(
        __doc__, work_dir="logs and checkpoints", example="optim_wrapper.optimizer.lr=0.01"
    )
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
    return parse(parser)


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, NEEDED_TO_TRAIN)
    import_family(cfg)
    check_config(cfg, TRAINING)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    set_work_dir(cfg, args.work_dir, args.config)
    install_safe_loading()
    # Before the first file is written: a run that is refused changes nothing of the other's.
    with only_run_in(cfg.work_dir) if is_first_process(args.launcher) else nullcontext():
        train(cfg, args)
    leave_process_group()


def train(cfg: Config, args: Namespace) -> None:
    checkpoint = plan_resume(cfg, args.resume)
    fit_to_machine(cfg, args.launcher)
    try:
        with doing(f"building the model and the hooks of {args.config}"):
            runner = build_runner(cfg, checkpoint)
        record_start(runner, args.config)
        with doing(f"training {args.config}"):
            runner.train()
    except (KeyboardInterrupt, OSError):
        if is_rank_zero() and can_continue(cfg):
            print("\nto continue: the same command with --resume", file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(run_tool(main))
