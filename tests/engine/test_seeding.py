"""A sample's randomness is a function of its place in the run."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

import numpy as np
from mmengine.dataset import BaseDataset, DefaultSampler, InfiniteSampler, pseudo_collate
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmdysample.engine import seeding
from mmdysample.engine.seeding import (
    Draw,
    PlacedBatchSampler,
    load_sample,
    loaded_by_place,
    seed_everything,
)
from mmdysample.errors import UserError


class Noisy(BaseDataset):
    """Samples of (index, what each generator draws)."""

    def __init__(self, length: int = 7):
        self.length = length
        super().__init__(lazy_init=True)
        self._fully_initialized = True

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return [index, random.random(), np.random.rand(), torch.rand(()).item()]


def loader(sampler: Sampler, workers: int = 0, **settings) -> DataLoader:
    return DataLoader(
        loaded_by_place(sampler.dataset),
        batch_sampler=PlacedBatchSampler(sampler, batch_size=2, seed=1, **settings),
        num_workers=workers,
        collate_fn=pseudo_collate,
        persistent_workers=workers > 0,
    )


def draw(batches, count: int) -> list:
    iterator = iter(batches)
    return [next(iterator) for _ in range(count)]


def epochs(batches: DataLoader, first: int, last: int) -> list:
    drawn = []
    for epoch in range(first, last):
        batches.batch_sampler.sampler.set_epoch(epoch)
        drawn.append(list(batches))
    return drawn


def test_workers_do_not_matter():
    alone, two = (
        epochs(loader(DefaultSampler(Noisy(), seed=3), workers), 0, 2) for workers in (0, 2)
    )
    assert alone == two


def test_history_does_not_matter():
    all_epochs = epochs(loader(DefaultSampler(Noisy(), seed=3)), 0, 3)
    random.random(), np.random.rand(), torch.rand(5)
    assert epochs(loader(DefaultSampler(Noisy(), seed=3)), 1, 3) == all_epochs[1:]


def test_draws_differ():
    """The same sample looks different in each epoch, and no two samples alike."""
    drawn = [value for epoch in epochs(loader(DefaultSampler(Noisy())), 0, 3) for value in epoch]
    for generator in (1, 2, 3):
        values = [value for batch in drawn for value in batch[generator]]
        assert len(set(values)) == len(values) == 21


def test_seed_of_the_run_matters():
    sampler = DefaultSampler(Noisy(), shuffle=False)
    first, second = (
        [d.place for batch in PlacedBatchSampler(sampler, 2, seed) for d in batch]
        for seed in (1, 2)
    )
    assert not set(first) & set(second)


def test_indices_are_those_of_the_sampler():
    batches = PlacedBatchSampler(DefaultSampler(Noisy(), seed=3), batch_size=2, seed=1)
    expected = list(BatchSampler(DefaultSampler(Noisy(), seed=3), 2, False))
    assert [[d.index for d in batch] for batch in batches] == expected
    assert len(batches) == len(expected) == 4


@pytest.mark.parametrize("skip", [1, 4, 5, 11])
@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_skipping_an_endless_sequence(skip, finite, drop_last):
    """Skipping n batches gives what follows n batches that were drawn."""

    def batches(skip: int):
        sampler = (DefaultSampler if finite else InfiniteSampler)(Noisy(), seed=3)
        placed = PlacedBatchSampler(
            sampler, batch_size=2, seed=1, skip=skip, endless=True, drop_last=drop_last
        )
        while True:  # as mmengine's iteration-based loop draws
            yield from placed

    assert draw(batches(skip), 12) == draw(batches(0), skip + 12)[skip:]


def test_skipping_loads_nothing():
    loaded = []

    class Watched(Noisy):
        def __getitem__(self, index):
            loaded.append(index)
            return super().__getitem__(index)

    (batch,) = draw(loader(InfiniteSampler(Watched(), seed=3), skip=1000, endless=True), 1)
    assert loaded == list(batch[0]) and len(loaded) == 2


def test_skipping_within_an_epoch():
    sampler = DefaultSampler(Noisy(), seed=3)
    sampler.set_epoch(5)
    whole = list(PlacedBatchSampler(sampler, 2, seed=1))
    placed = PlacedBatchSampler(sampler, 2, seed=1, skip=3)
    iter(placed)  # as a DataLoader with workers does before it asks for another one
    assert list(placed) == whole[3:]
    assert list(placed) == whole


def test_skipping_more_than_an_epoch_has():
    placed = PlacedBatchSampler(DefaultSampler(Noisy()), 2, seed=1, skip=9)
    assert list(placed) == []
    assert len(list(placed)) == 4


def test_skipping_in_an_empty_data_set_ends():
    sampler = InfiniteSampler(Noisy())
    sampler.indices = iter(())
    assert list(PlacedBatchSampler(sampler, 2, seed=1, skip=3, endless=True)) == []


def test_number_of_processes_does_not_matter(monkeypatch):
    """A sample is augmented alike by one process and by the one of several that draws it."""

    def places(world_size: int) -> dict:
        found = {}
        for rank in range(world_size):
            monkeypatch.setattr(seeding, "get_dist_info", lambda r=rank: (r, world_size))
            sampler = DefaultSampler(Noisy(8), seed=3)
            sampler.rank, sampler.world_size = rank, world_size
            sampler.num_samples = 8 // world_size
            for batch in PlacedBatchSampler(sampler, 2, seed=1):
                found.update({d.index: d.place for d in batch})
        return found

    assert places(1) == places(2) == places(4)
    assert len(places(1)) == 8


def test_other_batch_samplers():
    class Pairs(BatchSampler):
        def __iter__(self):
            for batch in super().__iter__():
                yield batch[::-1]

    config = dict(type=Pairs, drop_last=True)
    sampler = DefaultSampler(Noisy(), shuffle=False)
    placed = PlacedBatchSampler(sampler, 3, seed=1, batch_sampler=config)
    assert [[d.index for d in batch] for batch in placed] == [[2, 1, 0], [5, 4, 3]]


def test_drop_last_stands_in_one_place():
    """7 samples in batches of 3; a batch sampler of the config's own has a drop_last of its own."""
    sampler = DefaultSampler(Noisy(), shuffle=False)
    assert len(list(PlacedBatchSampler(sampler, 3, seed=1))) == 3
    assert len(list(PlacedBatchSampler(sampler, 3, seed=1, drop_last=True))) == 2
    config = dict(type=BatchSampler, drop_last=False)
    with pytest.raises(UserError, match="drop_last=True of a dataloader"):
        PlacedBatchSampler(sampler, 3, seed=1, drop_last=True, batch_sampler=config)


def test_copies_load_their_own_samples():
    """Pickled as for a worker process, or copied; what a hook exchanges in one stays in it."""
    placed = loaded_by_place(Noisy())
    for twin in (pickle.loads(pickle.dumps(placed)), copy.deepcopy(placed)):
        twin.length = 3
        assert len(placed) == 7
        (loader_of_twin,) = twin.__getitems__.args
        assert loader_of_twin is twin
        assert twin.__getitems__([Draw(0, (1,))]) == placed.__getitems__([Draw(0, (1,))])


def test_plain_indices_are_not_seeded():
    dataset = Noisy()
    assert load_sample(dataset, 3) != load_sample(dataset, 3)
    drawn = Draw(3, (1, 0, 0))
    assert load_sample(dataset, drawn) == load_sample(dataset, drawn)


def test_seeds_every_generator():
    first, second = [], []
    for values in (first, second):
        seed_everything(1, 2, 3)
        values += [random.random(), np.random.rand(), torch.rand(()).item()]
    assert first == second


def test_places_do_not_collide():
    words = set()
    places = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (10, 0, 1), (1, 0, 10), (2**40, 0, 1), (0, 0, 1, 1)]
    for place in places:
        seed_everything(*place)
        words.add((random.random(), torch.rand(()).item()))
    assert len(words) == len(places)
