"""Turns: nobody is inside with somebody else, nobody waits for ever, and whoever is interrupted leaves no trace."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from diafano.engine import exclusive as module
from diafano.engine.exclusive import exclusive
from diafano.errors import UserError
from diafano.networks.tileable import eager


@pytest.fixture(autouse=True)
def _nobody_stays() -> object:
    yield
    assert module._turns == []


def wait_for_waiting(count: int) -> None:
    while sum(not turn.running for turn in module._turns) < count:
        time.sleep(0.001)


def test_one_at_a_time_also_where_layers_are_shared() -> None:
    layer = nn.Linear(1, 1)
    networks = [layer, nn.Sequential(layer), nn.ModuleList([nn.Sequential(layer), nn.Linear(1, 1)])]
    inside = most = 0

    def enter(at: int) -> None:
        nonlocal inside, most
        with exclusive(networks[at % 3]), exclusive(*networks), exclusive():
            inside += 1
            most = max(most, inside)
            time.sleep(0.001)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(40)))
    assert most == 1


def test_networks_that_share_nothing_do_not_wait() -> None:
    both = threading.Barrier(2)

    def enter(network: nn.Module) -> None:
        with exclusive(network):
            both.wait(10)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(enter, (nn.Linear(1, 1), nn.Linear(1, 1))))


def test_as_they_came() -> None:
    one, other, order = nn.Linear(1, 1), nn.Linear(1, 1), list[int]()

    def enter(at: int, *networks: nn.Module) -> None:
        with exclusive(*networks):
            order.append(at)

    with ThreadPoolExecutor(4) as pool, exclusive(one):
        asked = ((one,), (one, other), (other,), (one,))  # the third waits for the second, or that never had a turn
        for at, networks in enumerate(asked):
            pool.submit(enter, at, *networks)
            wait_for_waiting(at + 1)
        with exclusive(one, other):  # who is inside waits for nobody who waits for it
            order.append(-1)
    assert order[:3] == [-1, 0, 1] and set(order[3:]) == {2, 3}


def test_who_would_wait_for_ever_is_told() -> None:
    one, other, both = nn.Linear(1, 1), nn.Linear(1, 1), threading.Barrier(2)

    def enter(first: nn.Module, second: nn.Module) -> str:
        try:
            with exclusive(first):
                both.wait(10)
                with exclusive(second):
                    return "inside"
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        found = sorted(pool.map(enter, (one, other), (other, one)))
    assert found[0] == "inside" and "draw with one model at a time" in found[1]


def test_an_error_inside_lets_the_next_one_in() -> None:
    network = nn.Linear(1, 1)
    with pytest.raises(KeyError), exclusive(network):
        raise KeyError
    with exclusive(network):
        pass


def test_control_c_while_waiting() -> None:
    network, inside, leave = nn.Linear(1, 1), threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(network):
            inside.set()
            leave.wait(10)

    def interrupt() -> None:
        wait_for_waiting(1)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threads = [threading.Thread(target=work) for work in (hold, interrupt)]
    try:
        threads[0].start()
        inside.wait(10)
        threads[1].start()
        with pytest.raises(KeyboardInterrupt), exclusive(network):
            raise AssertionError("it was not its turn")
    finally:
        signal.signal(signal.SIGINT, before)
        assert [turn.running for turn in module._turns] == [True]
        leave.set()
        for thread in threads:
            thread.join()


def test_threads_that_leave_in_another_order_leave_the_compiler_as_it_was() -> None:
    import torch._dynamo.eval_frame as dynamo

    def stance() -> str:
        return dynamo._stance.stance

    first, second = ExitStack(), ExitStack()
    with torch.compiler.set_stance("default"):
        first.enter_context(eager())
        second.enter_context(eager())
        first.close()
        assert stance() == "force_eager"
        second.close()
        assert stance() == "default"
