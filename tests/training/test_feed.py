"""Batches by number: the same from any number of processes and in any order of asking."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from diafano.training.data.emoji.emoji import EmojiScenes
from diafano.training.data.emoji.sprites import Sprites
from diafano.training.examples import indices_of
from diafano.training.feed import AHEAD, Feed, Wanted, in_order, make, windows


@pytest.fixture(scope="module")
def source() -> EmojiScenes:
    return EmojiScenes(Sprites.shipped(), ["cat", "apple", "bus", "rose"], size=32)


def wanted(number: int) -> Wanted:
    return Wanted(indices_of(0, number, 4, 24), 16 if number % 2 else None, (0, number))


def test_a_worker_process_makes_what_the_caller_would(source: EmojiScenes) -> None:
    here, there = Feed(source, wanted), Feed(source, wanted, processes=1)
    with ThreadPoolExecutor(2) as threads:  # as the loop asks, two at a time
        made = list(threads.map(there, range(6)))
    made.append(there(2))  # again, and one that was not foreseen
    made.append(there(40))
    for number, one in zip([*range(6), 2, 40], made, strict=True):
        assert (one.pixels == here(number).pixels).all()
        assert one.captions == here(number).captions
    assert len(there._coming) <= 2 * AHEAD, "none is kept"
    there.close()


def test_examples_in_order_are_each_there_once(source: EmojiScenes) -> None:
    made = list(in_order(source, range(3, 12), 4))
    assert [len(batch.captions) for batch in made] == [4, 4, 1]
    assert [caption for batch in made for caption in batch.captions] == [source.caption(i) for i in range(3, 12)]


def test_windows_are_cut_from_their_pictures_where_there_is_something_to_see(source: EmojiScenes) -> None:
    whole = make(source, Wanted(np.arange(8))).pixels
    cut = windows(whole, 16, np.random.default_rng(0))
    assert cut.shape == (8, 16, 16, 3)
    for picture, window in zip(whole, cut, strict=True):
        places = [(y, x) for y in range(17) for x in range(17)]
        assert any((picture[y : y + 16, x : x + 16] == window).all() for y, x in places)
    assert cut.std(axis=(1, 2)).mean() > whole[:, :16, :16].std(axis=(1, 2)).mean()
