"""Every sample's randomness is a function of its place in the run.

A run that was killed and resumed draws the same batches with the same augmentations as one that
was not, whatever worker process draws them, because each sample is seeded from (seed of the run,
epoch, number of the draw) before it is loaded. A batch that was trained on already is skipped by
counting, without loading it.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

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


class PlacedDataset:
    """A data set whose samples are seeded by their place and whose errors name the sample.

    It stands in for the data set that it wraps: everything but loading a sample, reading and
    setting attributes alike, goes through.
    """

    def __init__(self, dataset: Any):
        self.__dict__["_wrapped"] = build_data_set(dataset)

    def __getattr__(self, name: str) -> Any:
        # How Python copies and pickles an object is not for the wrapped one to say.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_wrapped"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)

    def __getstate__(self) -> dict:
        return dict(self.__dict__)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getitem__(self, draw: Any) -> Any:
        index = draw
        if isinstance(draw, Draw):
            index = draw.index
            seed_everything(*draw.place)
        try:
            return self._wrapped[index]
        except OSError as error:
            files = self._files(index)
            # A decoder mostly does not say which file it complains of.
            if not files or error.filename not in (None, *files):
                raise
            raise UserError(
                f"sample {index} ({', '.join(files)}) cannot be read: {error}"
            ) from error

    def _files(self, index: Any) -> list[str]:
        """The files of a sample, none if the data set does not say."""
        if not hasattr(self._wrapped, "get_data_info"):
            return []
        info = self._wrapped.get_data_info(index)
        return [info[key] for key in ("img_path", "seg_map_path") if info.get(key)]


class PlacedBatchSampler(Sampler):
    """The batches of another batch sampler, from a given batch on, each sample with its place.

    Args:
        sampler: yields the indices.
        batch_size: samples of a batch.
        seed: seed of the run.
        skip: batches not to yield at the first pass, in the case of ``endless`` over the ends of
            as many passes as it takes.
        endless: the batches of pass after pass are one sequence (an iteration-based run): passes
            are counted here and the sampler is told. Otherwise somebody else calls ``set_epoch``.
        drop_last: leave out a last batch that is not full, unless ``batch_sampler`` says otherwise.
        batch_sampler: config of a batch sampler, ``BatchSampler`` by default.

    Raises:
        UserError: ``drop_last`` with a batch sampler that cannot do it.
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
        self.passes = 0
        if batch_sampler is None:
            self.batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        else:
            place = dict(sampler=sampler, batch_size=batch_size)
            if drop_last:
                place["drop_last"] = True
                _check_takes_drop_last(batch_sampler)
            self.batch_sampler = DATA_SAMPLERS.build(batch_sampler, default_args=place)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[Draw]]:
        batches = self._one_pass()
        while self.skip:
            skipped = next(batches, None)
            if skipped is not None:
                self.skip -= 1
            elif self.endless and self._was_not_empty:
                batches = self._one_pass()
            else:
                self.skip = 0
        yield from batches

    def _one_pass(self) -> Iterator[list[Draw]]:
        if self.endless:
            epoch = self.passes
            self.passes += 1
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
        else:
            epoch = getattr(self.sampler, "epoch", 0)
        rank, world_size = get_dist_info()
        drawn = 0
        self._was_not_empty = False
        for batch in self.batch_sampler:
            self._was_not_empty = True
            yield self._placed(batch, epoch, drawn, rank, world_size)
            drawn += len(batch)

    def _placed(
        self, batch: Sequence, epoch: int, drawn: int, rank: int, world_size: int
    ) -> list[Draw]:
        # Samplers deal the draws of an epoch out to the processes in turn. Numbering them over all
        # processes makes a sample's augmentation independent of how many processes there are.
        return [
            Draw(index, (self.seed, epoch, (drawn + i) * world_size + rank))
            for i, index in enumerate(batch)
        ]


def _check_takes_drop_last(batch_sampler: dict) -> None:
    kind = batch_sampler["type"]
    if isinstance(kind, str):
        with DATA_SAMPLERS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if kind is None:
        return  # The registry says that it does not know the type.
    taken = inspect.signature(kind).parameters.values()
    if not any(each.name == "drop_last" or each.kind is each.VAR_KEYWORD for each in taken):
        raise UserError(
            f"drop_last=True in the dataloader cannot be had with {kind.__name__}, which has no "
            "such argument: remove it or choose another batch_sampler"
        )
