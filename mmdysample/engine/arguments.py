"""The command line that train.py and test.py share."""

from __future__ import annotations

import argparse
import os

from mmdysample.engine.errors import ArgumentParser
from mmdysample.engine.options import HELP, CfgOptions


def tool_parser(description: str | None, *, work_dir: str, example: str) -> ArgumentParser:
    """A parser of the arguments that both tools have.

    Args:
        description: what the tool does.
        work_dir: what the tool writes to the work dir.
        example: a setting that ``--cfg-options`` might replace.
    """
    parser = ArgumentParser(description=description)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help=f"directory for {work_dir}")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help=f"settings that replace those of the config, such as {example}; {HELP}",
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="job launcher",
    )
    # torch.distributed.launch passes one of the two, torchrun sets LOCAL_RANK instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    return parser


def parse(parser: ArgumentParser) -> argparse.Namespace:
    """Parse the command line; mmengine reads the local rank from the environment."""
    args = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args
