"""Time and memory of training steps of segmentors that differ in their upsamplers.

    python tools/benchmark/training_steps.py --device cuda --out results
    python tools/benchmark/training_steps.py configs/segformer/*_dysample_*.py --crop 256

builds each config's segmentor (by default all of configs/segformer) with random weights, and runs
training steps on random images: forward, loss, backward, optimizer. The peak is of what a step
allocates beside weights, optimizer and images. Ratios are over the config whose upsampler is
bilinear. Needs mmseg.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import report
import torch
from measure import Measurement, peak_bytes, seconds
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from run import positive, threads
from torch import nn

from mmdysample import Upsampler
from mmdysample.engine.config import load_config
from mmdysample.engine.errors import ArgumentParser, UserError, doing, run_tool
from mmdysample.engine.families import import_family

CONFIGS = Path(__file__).resolve().parents[2] / "configs/segformer"
OUT_FILE = "training.csv"
TABLE = {
    "config": "config",
    "p50_ms": "step, ms",
    "times_bilinear": "of bilinear",
    "peak_mib": "peak, MiB",
    "memory_times_bilinear": "of bilinear",
    "added_weights": "added weights",
}
"""Columns that are printed, and their headings."""


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    summary, _, details = __doc__.partition("\n\n")
    parser = ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "configs", nargs="*", type=Path, metavar="CONFIG", default=sorted(CONFIGS.glob("*.py"))
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    parser.add_argument("--batch-size", type=positive, default=2, help="images in a step (2)")
    parser.add_argument("--crop", type=positive, default=512, help="side of the images (512)")
    parser.add_argument("--repeats", type=positive, default=5, help="timed steps of each (5)")
    parser.add_argument("--threads", type=threads, help="of PyTorch; default: its own choice")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"write {OUT_FILE} there")
    args = parser.parse_args(arguments)
    if args.crop % 32:
        parser.error(f"--crop must be a multiple of 32, got {args.crop}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA GPU here")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    configs = {path.stem: load_config(str(path), None, ("model",)) for path in args.configs}
    for name, cfg in configs.items():
        if "decode_head" not in cfg.model:
            raise UserError(f"config {name} is not one of a segmentor (mmseg)")
    if args.out:
        report.prepare_directory(args.out, OUT_FILE)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    for name, cfg in configs.items():
        with doing(f"measuring {name}"):
            rows.append(dict(config=name, **measure(build(cfg, args), args)))
        print(f"{len(rows)}/{len(configs)} {name}", file=sys.stderr)
    add_ratios(rows)
    print(report.place_line(rows[0]), end="\n\n")
    print(report.align([list(TABLE.values()), *([row[key] for key in TABLE] for row in rows)]))
    if args.out:
        report.write(args.out / OUT_FILE, rows)


def build(cfg, args: argparse.Namespace) -> nn.Module:
    """The config's model with random weights, without synchronized normalization."""
    import_family(cfg)
    cfg.model.pretrained = None
    cfg.model.backbone.init_cfg = None
    cfg.model.data_preprocessor.size = (args.crop, args.crop)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    return model.to(args.device).train()


def measure(model: nn.Module, args: argparse.Namespace) -> report.Row:
    step = make_step(model, args.batch_size, args.crop, args.device)
    step()  # allocates the optimizer's state
    measured = Measurement(peak_bytes(step, args.device))
    measured.seconds = [seconds(step, args.device) for _ in range(args.repeats)]
    upsamplers = [module for module in model.modules() if isinstance(module, Upsampler)]
    added = sum(p.numel() for up in upsamplers for p in up.parameters() if p.dim() > 1)
    return dict(
        upsampler=type(upsamplers[0]).__name__ if upsamplers else "",
        batch_size=str(args.batch_size),
        crop=str(args.crop),
        **report.milliseconds(measured),
        peak_mib=f"{measured.peak_bytes / 2**20:.1f}",
        added_weights=str(added),
        **report.where(args.device),
    )


def make_step(
    model: nn.Module, batch_size: int, crop: int, device: str
) -> Callable[[], list[torch.Tensor]]:
    """A step of training on images that are always the same."""
    from mmseg.structures import SegDataSample  # `import_family` has said so if it is missing

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, crop, crop, generator=generator).to(device)
    labels = torch.randint(0, model.num_classes, (batch_size, 1, crop, crop), generator=generator)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=each)) for each in labels.to(device)]
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=6e-5)

    def step() -> list[torch.Tensor]:
        loss, _ = model.parse_losses(model.loss(images, samples))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return [loss.detach()]

    return step


def add_ratios(rows: list[report.Row]) -> None:
    """Over the row of the bilinear upsampler, if it is there."""
    baseline = next((row for row in rows if row["upsampler"] == "Bilinear"), None)
    for row in rows:
        for name, column in (("times_bilinear", "p50_ms"), ("memory_times_bilinear", "peak_mib")):
            row[name] = ""
            if baseline is not None:
                row[name] = f"{float(row[column]) / float(baseline[column]):.3f}"


if __name__ == "__main__":
    sys.exit(run_tool(main))
