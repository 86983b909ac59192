"""Prepared tokens are read exactly: each block once in an epoch, and the same batches whatever the ranks and passes."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subcloning import SubcloningError
from subcloning.data.batches import accumulation
from subcloning.data.text.tokens import Blocks, TokenStream, TrainingBatches, ValidationBlocks, shuffled


@given(size=st.integers(1, 5000), key=st.integers(0, 99))
def test_shuffled_is_a_permutation(size, key):
    assert sorted(shuffled(np.arange(size), size, (key,))) == list(range(size))


def test_shuffled_looks_random():
    places = shuffled(np.arange(10_000), 10_000, (1, 2))
    assert abs(np.corrcoef(places, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(places[1:], places[:-1])[0, 1]) < 0.05
    assert (places == np.arange(10_000)).sum() < 10
    assert (places == shuffled(np.arange(10_000), 10_000, (1, 3))).sum() < 10
    huge = shuffled(np.arange(100), 10**12, (1,))
    assert len(set(huge.tolist())) == 100
    assert huge.max() > 10**11


@pytest.fixture
def stream(tmp_path):
    """0, 1, 2, ... 999 in uneven shards."""
    cuts = [0, 1, 130, 131, 600, 1000]
    shards = []
    for a, b in pairwise(cuts):
        np.save(tmp_path / f"{a}.npy", np.arange(a, b, dtype=np.uint16))
        shards.append((tmp_path / f"{a}.npy", b - a))
    return TokenStream(shards)


def test_stream_is_read_across_shards_and_not_copied(stream):
    for start, length in [(0, 1000), (0, 1), (129, 3), (130, 1), (599, 2), (999, 1), (500, 0)]:
        assert stream.read(start, length).tolist() == list(range(start, start + length))
    assert all(isinstance(shard, np.memmap) for shard in stream._open.values())
    assert len(pickle.dumps(stream)) < 2000


def test_an_epoch_has_each_block_once_and_the_next_differs(stream):
    blocks = Blocks(stream, 10, seed=3)
    first, second = blocks.rows(0, blocks.count), blocks.rows(blocks.count, blocks.count)
    for epoch in (first, second):
        assert (np.diff(epoch) == 1).all()  # each row is consecutive text
        assert len(set(epoch[:, 0] % 10)) == 1  # one cut per epoch
        assert len(set(epoch[:, 0])) == blocks.count == 99
    assert not np.array_equal(first, second)
    assert np.array_equal(blocks.rows(95, 10), np.concatenate([first[95:], second[:6]]))
    assert not np.array_equal(Blocks(stream, 10, seed=4).rows(0, 99), first)


@pytest.mark.parametrize(("world_size", "passes"), [(1, 1), (2, 1), (1, 3), (3, 2), (6, 1)])
def test_ranks_and_passes_share_the_same_global_batches(stream, world_size, passes):
    blocks, batch = Blocks(stream, 10, seed=1), 12
    size = batch // (world_size * passes)
    ranks = [TrainingBatches(blocks, size, rank, world_size) for rank in range(world_size)]
    for step in range(20):  # more than two epochs
        parts = [rank[step * passes + p] for p in range(passes) for rank in ranks]
        found = np.concatenate([part.numpy() for part in parts])
        assert np.array_equal(found, blocks.rows(step * batch, batch))


def test_validation_blocks_are_spread_over_the_split(stream):
    import torch

    blocks = ValidationBlocks(stream, 10, 5)
    assert blocks[torch.arange(5)][:, 0].tolist() == [0, 190, 390, 590, 790]
    assert ValidationBlocks(stream, 10, 60)[torch.arange(60)][-1, -1] > 970
    assert (ValidationBlocks(stream, 10, 99)[torch.arange(99)].diff() == 1).all()


def test_accumulation():
    assert accumulation(12, 2) == 1
    assert accumulation(12, 2, 3) == 2
    with pytest.raises(SubcloningError, match=r"a batch of 12 does not divide into 5 device\(s\)"):
        accumulation(12, 5)
    with pytest.raises(SubcloningError, match="micro_batch=24"):
        accumulation(12, 1, 24)
