"""List where the model of a config upsamples, and where no upsampler can stand.

    python tools/analysis/upsampling_sites.py configs/yolox/yolox_s_dysample_8xb8-300e_coco.py

builds the model with random weights and prints the table of `mmdysample.find_upsampling`: the names
that `targets` and `guides` of an `UpsampleModel` take. Nothing is changed; of a config whose model
is an `UpsampleModel`, the model behind it is shown.
"""

from __future__ import annotations

import argparse
import sys

from mmengine.registry import MODELS, DefaultScope

from mmdysample import find_upsampling
from mmdysample.engine.checks.parts import check_parts
from mmdysample.engine.config import load_config
from mmdysample.engine.errors import ArgumentParser, doing, run_tool
from mmdysample.engine.families import import_family
from mmdysample.engine.options import HELP, CfgOptions
from mmdysample.upsample_model import example_images, original_model, run_features


def parse_args() -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="mmdet or mmseg config file")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="side, or height and width, of the image that the model is run with; default: "
        "model.image_size of the config, else 256",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help=f"settings that replace those of the config; {HELP}",
    )
    args = parser.parse_args()
    if args.image_size and (len(args.image_size) > 2 or min(args.image_size) < 1):
        given = " ".join(map(str, args.image_size))
        parser.error(f"--image-size must be one or two whole numbers of at least 1, got {given}")
    if args.image_size and len(args.image_size) == 1:
        args.image_size *= 2
    return args


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, ("model",))
    import_family(cfg)
    check_parts(cfg, ("model",))
    size = args.image_size or cfg.model.get("image_size", 256)
    with (
        doing(f"building the model of {args.config}"),
        DefaultScope.overwrite_default_scope(cfg.default_scope),
    ):
        model = MODELS.build(original_model(cfg.model))
    print(find_upsampling(model, example_images(model, size), forward=run_features))


if __name__ == "__main__":
    sys.exit(run_tool(main))
