"""Test a detector (mmdet) or a segmentor (mmseg) from a config and a checkpoint."""

from __future__ import annotations

import os
import sys

from mmengine.registry import RUNNERS

from mmdysample.engine.checkpoint import check_is_whole, install_safe_loading
from mmdysample.engine.config import (
    NEEDED_TO_TEST,
    CfgOptions,
    fit_to_machine,
    load_config,
    set_work_dir,
)
from mmdysample.engine.errors import ArgumentParser, run_tool
from mmdysample.engine.families import family_of
from mmdysample.engine.runner import RestartableRunner


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--work-dir", help="folder for logs and metrics")
    parser.add_argument(
        "--out",
        help="where to write predictions: mmdet, a .pkl file; mmseg, a folder of label images",
    )
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument(
        "--show-dir", help="write pictures of predictions below work_dir/timestamp (mmdet) or here"
    )
    parser.add_argument("--wait-time", type=float, default=2, help="seconds between windows")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help="settings that replace those of the config, such as test_dataloader.batch_size=4; "
        'a list is KEY="[a,b]" or KEY=a,b, nested KEY="[(a,b),(c,d)]", without white space',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="job launcher",
    )
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    # torch.distributed.launch passes one of the two, torchrun sets LOCAL_RANK instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, NEEDED_TO_TEST)
    family = family_of(cfg)
    family.prepare()
    if "://" not in args.checkpoint:
        check_is_whole(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.show or args.show_dir:
        family.show(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        family.augment(cfg)
    if args.out is not None:
        family.write_predictions(cfg, args.out)
    set_work_dir(cfg, args.work_dir, args.config)
    install_safe_loading()
    fit_to_machine(cfg, args.launcher)
    build_runner(cfg).test()


def build_runner(cfg):
    if "runner_type" in cfg:
        return RUNNERS.build(cfg)
    return RestartableRunner.from_cfg(cfg)


if __name__ == "__main__":
    sys.exit(run_tool(main))
