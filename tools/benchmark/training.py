"""Training time and memory of models that differ in their upsamplers, such as SegFormer-B1's.

    python tools/benchmark/training.py --device cuda --out results
    python tools/benchmark/training.py configs/segformer/*_dysample_*.py --batch-size 1 --crop 256

builds each config's segmentor (by default all of configs/segformer) with random weights, and runs
training steps on random images: forward, loss, backward, optimizer. The peak is of what a step
allocates beside weights, optimizer and images. Ratios are over the config whose upsampler is
bilinear. Needs mmseg.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where nothing is installed

import report
import torch
from measure import Measurement, peak_bytes, seconds
from torch import nn

from mmdysample import Upsampler
from mmdysample.engine.atomic import replacing
from mmdysample.engine.errors import UserError, run_tool

CONFIGS = Path(__file__).resolve().parents[2] / "configs/segformer"
OUT_FILE = "training.csv"
Row = dict[str, str]


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", type=Path, metavar="CONFIG")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    parser.add_argument("--batch-size", type=int, default=2, help="images in a step (2)")
    parser.add_argument("--crop", type=int, default=512, help="side of the images (512)")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each model (5)")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own choice")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"write {OUT_FILE} there")
    args = parser.parse_args(arguments)
    for name in ("batch_size", "repeats", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.crop < 32 or args.crop % 32:
        parser.error(f"--crop must be a multiple of 32, got {args.crop}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA GPU here")
    missing = [path for path in args.configs if not path.is_file()]
    if missing:
        parser.error(f"config {missing[0]} does not exist")
    if args.out:
        if (args.out / OUT_FILE).exists():
            parser.error(f"--out {args.out} has {OUT_FILE} already; choose another folder")
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--out {args.out} cannot be made: {os.strerror(error.errno).lower()}")
    args.configs = args.configs or sorted(CONFIGS.glob("*.py"))
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        import mmseg  # noqa: F401 - only to say what is missing
    except ImportError as error:
        print(f"this needs mmseg ({error}): bash tools/setup_env.sh installs it", file=sys.stderr)
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    for number, path in enumerate(args.configs, start=1):
        say(f"{number}/{len(args.configs)} {path.stem}")
        model = build(path, args.crop, args.device)
        step = make_step(model, args.batch_size, args.crop, args.device)
        step()  # allocates the optimizer's state
        measured = Measurement("ours", peak_bytes(step, args.device))
        measured.seconds = [seconds(step, args.device) for _ in range(args.repeats)]
        rows.append(describe(path, model, measured, args))
        del model, step
    say("")
    compare(rows)
    print(report.place_line(rows[0]), end="\n\n")
    print(table(rows))
    if args.out:
        with replacing(args.out / OUT_FILE) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 0


def build(path: Path, crop: int, device: str) -> nn.Module:
    """The config's model with random weights, without synchronised normalisation."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    import mmdysample.mmseg  # noqa: F401 - registers the hosts
    from mmdysample.engine.config import load_config

    register_all_modules(init_default_scope=False)
    cfg = load_config(str(path), None, ())
    if "decode_head" not in cfg.get("model", {}):
        raise UserError(f"config {path} is not one of a segmentor (mmseg)")
    cfg.model.pretrained = None
    cfg.model.backbone.init_cfg = None
    cfg.model.data_preprocessor.size = (crop, crop)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    return model.to(device).train()


def make_step(model: nn.Module, batch_size: int, crop: int, device: str):
    """A step of training on images that are always the same."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, crop, crop, generator=generator).to(device)
    samples = []
    for _ in range(batch_size):
        labels = torch.randint(0, model.num_classes, (1, crop, crop), generator=generator).to(
            device
        )
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels)))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=6e-5)

    def step() -> list[torch.Tensor]:
        loss, _ = model.parse_losses(model.loss(images, samples))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return [loss.detach()]

    return step


def describe(path: Path, model: nn.Module, measured: Measurement, args) -> Row:
    upsamplers = [module for module in model.modules() if isinstance(module, Upsampler)]
    added = sum(p.numel() for up in upsamplers for p in up.parameters() if p.dim() > 1)
    return dict(
        config=path.stem,
        upsampler=type(upsamplers[0]).__name__ if upsamplers else "",
        batch_size=str(args.batch_size),
        crop=str(args.crop),
        **{f"p{p}_ms": f"{1000 * measured.percentile(p):.2f}" for p in report.PERCENTILES},
        peak_mib=f"{measured.peak_bytes / 2**20:.1f}",
        added_weights=str(added),
        **report.where(args.device),
    )


def compare(rows: list[Row]) -> None:
    """Set the ratios over the baseline, if it is there."""
    baseline = next((row for row in rows if row["upsampler"] == "Bilinear"), None)
    for row in rows:
        for name, column in (("times_bilinear", "p50_ms"), ("memory_times_bilinear", "peak_mib")):
            row[name] = ""
            if baseline is not None:
                row[name] = f"{float(row[column]) / float(baseline[column]):.3f}"


def table(rows: list[Row]) -> str:
    columns = {
        "config": "config",
        "p50_ms": "step, ms",
        "times_bilinear": "of bilinear",
        "peak_mib": "peak, MiB",
        "memory_times_bilinear": "of bilinear",
        "added_weights": "added weights",
    }
    return report.align([list(columns.values()), *([row[n] for n in columns] for row in rows)])


def say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_tool(main))
