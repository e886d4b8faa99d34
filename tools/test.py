"""Test a detector (mmdet) or a segmentor (mmseg) from a config and a checkpoint."""

from __future__ import annotations

import os
import sys

from mmdysample.engine.arguments import parse, tool_parser
from mmdysample.engine.checkpoint import check_checkpoint_file, install_safe_loading
from mmdysample.engine.checks import TESTING, check_config
from mmdysample.engine.config import NEEDED_TO_TEST, fit_to_machine, load_config, set_work_dir
from mmdysample.engine.distributed import leave_process_group
from mmdysample.engine.errors import doing, run_tool
from mmdysample.engine.families import (
    augment,
    draw,
    import_family,
    visualization_hook,
    write_predictions,
)
from mmdysample.engine.runner import build_runner
from mmdysample.errors import UserError


def parse_args():
    parser = tool_parser(
        __doc__, work_dir="logs and metrics", example="test_dataloader.batch_size=4"
    )
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--out",
        help="where to write predictions: mmdet, a new .pkl file; mmseg, a new directory of "
        "images: labels, depth in millimeters or alphas",
    )
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument(
        "--show-dir",
        help="draw predictions into this new directory, below work_dir/timestamp if it is relative",
    )
    parser.add_argument("--wait-time", type=float, default=2, help="seconds between windows")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parse(parser)


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, NEEDED_TO_TEST)
    import_family(cfg)
    check_config(cfg, TESTING)
    if "://" not in args.checkpoint:
        check_checkpoint_file(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    set_work_dir(cfg, args.work_dir, args.config)
    if args.show:
        visualization_hook(cfg).update(show=True, wait_time=args.wait_time)
    # Every process looks whether it may write before the first of them writes: none does before
    # all are connected.
    if args.show_dir is not None:
        draw(cfg, args.show_dir)
    if args.out is not None:
        drawn = args.show_dir if os.path.isabs(args.show_dir or "") else None
        if drawn and os.path.realpath(drawn) == os.path.realpath(args.out):
            raise UserError(f"--out and --show-dir are the same, {args.out}: give two")
        write_predictions(cfg, args.out)
    if args.tta:
        augment(cfg)
    install_safe_loading()
    fit_to_machine(cfg, args.launcher)
    with doing(f"building the model and the hooks of {args.config}"):
        runner = build_runner(cfg)
    with doing(f"testing {args.config}"):
        runner.test()
    del runner  # it holds the process group
    leave_process_group()


if __name__ == "__main__":
    sys.exit(run_tool(main))
