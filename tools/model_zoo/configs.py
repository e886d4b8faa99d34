"""The project's configs by name."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def model_configs() -> dict[str, Path]:
    """The file of each config that trains a model, by its name; `_base_` has parts of them."""
    return {path.stem: path for path in sorted(ROOT.glob("configs/[!_]*/*.py"))}
