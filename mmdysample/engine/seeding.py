"""Every sample's and iteration's randomness is a function of its place in the run.

A run that was killed and resumed draws the same batches with the same augmentations as one that
was not, whatever worker process draws them, because each sample is seeded from (seed of the run,
epoch, number of the draw) before it is loaded. A batch that was trained on already is skipped by
counting, without loading it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info, get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Dataset, Sampler

from mmdysample.engine.data import build_data_set
from mmdysample.errors import UserError


class Draw(NamedTuple):
    """A sample to load, and the place in the run that its randomness comes from."""

    index: Any
    place: tuple[int, ...]


def seed_everything(*place: int) -> None:
    """Seed Python's, numpy's and PyTorch's generators from a place in the run."""
    words = np.random.SeedSequence([abs(int(part)) for part in place]).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[0]))
    torch.manual_seed(int(words[1]))


def loaded_by_place(dataset: Any) -> Any:
    """A data set, or that of a config, whose samples a DataLoader loads by `load_sample`.

    A DataLoader asks a data set that has ``__getitems__`` for a batch at a time. Setting it on
    the data set avoids a wrapper: hooks still see its attributes. A list, which takes none, needs
    the wrapper.
    """
    built = build_data_set(dataset)
    if not hasattr(built, "__dict__"):
        built = _Samples(built)
    built.__getitems__ = partial(_load_batch, built)
    return built


class _Samples(Dataset):
    """The data set of the samples in a list or tuple."""

    def __init__(self, samples: Sequence):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]


def _load_batch(dataset: Any, draws: Sequence) -> list:
    return [load_sample(dataset, draw) for draw in draws]


def load_sample(dataset: Any, draw: Any) -> Any:
    """Load the sample of an index or, seeded by its place, of a `Draw`."""
    if not isinstance(draw, Draw):
        return dataset[draw]
    seed_everything(*draw.place)
    return dataset[draw.index]


class PlacedBatchSampler(Sampler):
    """The batches of another batch sampler, from a given batch on, each sample with its place.

    Args:
        sampler: yields the indices.
        batch_size: samples of a batch.
        seed: seed of the run.
        skip: batches to leave out at the beginning.
        endless: yield pass after pass without end (an iteration-based run), telling the sampler
            each pass's number. Otherwise the training loop calls its ``set_epoch``.
        drop_last: leave out a last batch that is not full.
        batch_sampler: config of a batch sampler, ``BatchSampler`` by default.

    Raises:
        UserError: ``drop_last`` together with ``batch_sampler``, which has its own.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        seed: int,
        skip: int = 0,
        endless: bool = False,
        drop_last: bool = False,
        batch_sampler: dict | None = None,
    ):
        self.sampler = sampler
        self.batch_size = batch_size
        self.seed = seed
        self.skip = skip
        self.endless = endless
        if batch_sampler is None:
            self.batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        else:
            if drop_last:
                raise UserError(
                    "drop_last=True of a dataloader does not reach its batch_sampler: set it in "
                    "the config of that one"
                )
            place = dict(sampler=sampler, batch_size=batch_size)
            self.batch_sampler = DATA_SAMPLERS.build(batch_sampler, default_args=place)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[Draw]]:
        # Lazily: a DataLoader with workers makes two iterators, and draws from the second alone.
        skip, self.skip = self.skip, 0
        yield from islice(self._batches(), skip, None)

    def _batches(self) -> Iterator[list[Draw]]:
        if not self.endless:
            yield from self._one_pass(getattr(self.sampler, "epoch", 0))
            return
        for epoch in count():
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            batch = None
            for batch in self._one_pass(epoch):
                yield batch
            if batch is None:
                return

    def _one_pass(self, epoch: int) -> Iterator[list[Draw]]:
        # Samplers deal the draws of an epoch out to the processes in turn. Numbering them over all
        # processes makes a sample's augmentation independent of how many processes there are.
        rank, world_size = get_dist_info()
        draws = count(rank, world_size)
        for batch in self.batch_sampler:
            yield [Draw(index, (self.seed, epoch, next(draws))) for index in batch]


class SeedEachIteration(Hook):
    """Seed all generators from (seed, rank, iteration) before each training iteration.

    What the model draws (stochastic depth, sampled boxes) then needs no saved state to be drawn
    again after a restart.
    """

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        # A fourth number, which samples (seed, epoch, draw) do not have.
        seed_everything(runner.seed, get_rank(), runner.iter, 1)
