"""Notes: who hears them, and that nobody hears another's."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import diafano
from diafano.errors import collect_notes, note
from diafano.stable_diffusion import StableDiffusion
from helpers import told


def test_each_once_in_their_order_and_at_once() -> None:
    heard: list[str] = []
    with diafano.collect_notes(heard.append) as notes:
        for sentence in ("b", "a", "b"):
            note(sentence)
            assert heard == notes
    assert notes == ["b", "a"]


def test_the_innermost_collects() -> None:
    with collect_notes() as outer:
        with collect_notes() as inner:
            note("within")
        note("after")
        with pytest.raises(KeyError), collect_notes():
            raise KeyError
        note("at the end")
    assert (inner, outer) == (["within"], ["after", "at the end"])


def test_nobody_collects_and_the_log_has_it(caplog: pytest.LogCaptureFixture) -> None:
    thread = threading.Thread(target=note, args=("100% of it",))  # which knows of no collector
    thread.start()
    thread.join()
    assert caplog.record_tuples == [("diafano", logging.WARNING, "100% of it")]


def test_a_second_request_hears_its_own(tiny_model: StableDiffusion) -> None:
    for _ in range(2):  # a warning comes once in a process
        with told("the last 2 tokens of the prompt are left out"):
            tiny_model.generate("a " * 77, steps=1, like="diffusers")


def test_threads_hear_their_own(tiny_model: StableDiffusion) -> None:
    both = threading.Barrier(2)

    def draw(words: int) -> list[str]:
        with collect_notes() as notes:
            both.wait()
            tiny_model.generate("a " * words, steps=2, like="diffusers")
        return notes

    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            found = list(pool.map(draw, (76, 80)))
            assert [len(notes) for notes in found] == [1, 1]
            assert "the last token" in found[0][0] or "the last 1 tokens" in found[0][0]
            assert "the last 5 tokens" in found[1][0]
