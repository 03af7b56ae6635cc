"""Whose turn it is: owners share, batches are made of kin, models are not changed for every job."""

import itertools
import random
import threading
from typing import Any

import pytest

from diafano.jobs.queue.job import Job, Order
from diafano.jobs.queue.turns import LONGEST_STAY, Full, Turns

NUMBER = iter(range(10**9))


def job(owner: str = "a", *, priority: int = 0, model: str = "embedded", prompt: str = "x", **settings: Any) -> Job:
    said = {"size": [64, 64], "steps": 10, **settings}
    return Job(
        order=Order(prompt=prompt, settings=said, model=model),
        owner=owner,
        priority=priority,
        created=float(next(NUMBER)),
    )


def drawn(turns: Turns, most: int = 1) -> list[Job]:
    """All that wait, in the order in which they are drawn."""
    found: list[Job] = []
    while batch := turns.next(most, timeout=0):
        found += batch
    return found


def test_one_owners_jobs_come_in_their_order_and_by_priority() -> None:
    turns = Turns()
    first, second, urgent = job(), job(), job(priority=5)
    for one in (first, second, urgent):
        turns.add(one)
    assert [turns.position(one.id) for one in (urgent, first, second)] == [0, 1, 2]
    assert turns.put_first(second.id)
    assert drawn(turns) == [second.model_copy(update={"priority": 6}), urgent, first]
    assert not turns.put_first(second.id)


def test_who_asks_for_little_does_not_wait_behind_who_asks_for_much() -> None:
    turns = Turns()
    many, few = [job("many") for _ in range(50)], [job("few") for _ in range(3)]
    for one in (*many, *few):
        turns.add(one)
    order = drawn(turns)
    assert [order.index(one) for one in few] == [1, 3, 5]


def test_large_jobs_count_for_what_they_are() -> None:
    turns = Turns()
    large, small = [job("l", steps=40) for _ in range(4)], [job("s") for _ in range(16)]
    for one in (*large, *small):
        turns.add(one)
    order = [one.owner for one in drawn(turns)]
    for end in range(5, len(order) + 1, 5):
        assert abs(order[:end].count("s") - 4 * order[:end].count("l")) <= 4


def test_who_comes_later_begins_where_the_others_are() -> None:
    """Not at nothing: somebody new would be drawn alone until they have caught up with all that was drawn before."""
    turns = Turns()
    for _ in range(100):
        turns.add(job("old"))
    for _ in range(50):
        turns.next(1, timeout=0)
    for _ in range(20):
        turns.add(job("new"))
    owners = [one.owner for one in drawn(turns)][:20]
    assert owners.count("new") == pytest.approx(10, abs=1)


def test_nobody_waits_longer_than_twice_the_fair_share() -> None:
    chance, turns = random.Random(1), Turns()
    jobs = [job(f"owner {chance.randrange(20)}", steps=chance.choice([5, 10, 20])) for _ in range(400)]
    for one in jobs:
        turns.add(one)
    order = drawn(turns)
    assert sorted(one.id for one in order) == sorted(one.id for one in jobs)
    owners = {one.owner for one in jobs}
    spent: dict[str, float] = dict.fromkeys(owners, 0.0)
    left = {owner: sum(one.order.weight for one in jobs if one.owner == owner) for owner in owners}
    for one in order:
        spent[one.owner] += one.order.weight
        left[one.owner] -= one.order.weight
        waiting = [owner for owner in owners if left[owner] > 1e-9]
        if waiting:  # of those who still want something nobody is far behind
            assert max(spent[owner] for owner in waiting) - min(spent[owner] for owner in waiting) <= 2 * max(
                one.order.weight for one in jobs
            )


def test_kin_is_drawn_together() -> None:
    turns = Turns()
    a, other, b, c = job("1", prompt="a"), job("1", steps=11), job("2", prompt="b", count=2), job("3", prompt="c")
    for one in (a, other, b, c):
        turns.add(one)
    assert turns.next(16, timeout=0) == [a, b, c]
    assert turns.next(16, timeout=0) == [other]
    turns = Turns()
    for one in (a, b, c):
        turns.add(one)
    assert turns.next(3, timeout=0) == [a, b]


@pytest.mark.parametrize(
    "order",
    [
        Order(prompt="x", image="0" * 64),
        Order(prompt="x", settings={"hires": 2.0}),
        Order(prompt="<lora:ink:0.5> x"),
    ],
)
def test_what_cannot_share_a_batch_has_no_kin(order: Order) -> None:
    assert order.kin is None


def test_models_are_changed_as_rarely_as_fairness_allows() -> None:
    turns = Turns()
    for _ in range(3 * LONGEST_STAY):
        turns.add(job("1", model="a"))
        turns.add(job("2", model="b"))
    models = [one.order.model for one in drawn(turns)]
    changes = sum(before != after for before, after in itertools.pairwise(models))
    assert changes <= 6
    stays = max(len(run) for run in "".join(models).replace("ab", "a b").replace("ba", "b a").split())
    assert stays <= 2 * LONGEST_STAY + 2


def test_too_many_are_refused() -> None:
    turns = Turns(most=3, most_of_one=2)
    turns.add(job("a"))
    turns.add(job("a"))
    with pytest.raises(Full, match="2 of your jobs wait already"):
        turns.check("a")
    turns.check("b")
    turns.add(job("b"))
    with pytest.raises(Full, match="3 jobs wait already"):
        turns.check("c")


def test_paused_and_closed() -> None:
    turns = Turns()
    turns.add(job())
    turns.pause(True)
    assert turns.next(1, timeout=0.01) == []
    turns.pause(False)
    assert len(turns.next(1, timeout=0.01)) == 1
    waiting = threading.Thread(target=turns.next, args=(1,))
    waiting.start()
    turns.close()
    waiting.join(5)
    assert not waiting.is_alive()
