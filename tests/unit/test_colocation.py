import multiprocessing
import threading
import uuid

import pytest

from rl_scaling_callback.live.colocation import Colocation

pytest.importorskip("fcntl")
PROCESSES = multiprocessing.get_context("spawn")


def live(node, arrived, leave):
    neighbourhood = Colocation(node)
    neighbourhood.look()
    arrived.set()
    leave.wait(60)
    del neighbourhood


class Neighbour:
    def __init__(self, node):
        arrived, self._leave = PROCESSES.Event(), PROCESSES.Event()
        self.process = PROCESSES.Process(target=live, args=(node, arrived, self._leave))
        self.process.start()
        assert arrived.wait(60)

    def go(self):
        self._leave.set()
        self.process.join(60)


@pytest.fixture
def node():
    return f"test {uuid.uuid4()}"


@pytest.fixture
def me(node):
    neighbourhood = Colocation(node)
    yield neighbourhood
    neighbourhood.leave()


def test_alone(me):
    assert [me.look() for _ in range(3)] == [1.0, 1.0, 1.0]


def test_other_process_counts_until_the_iteration_after_it_left(me, node):
    neighbour = Neighbour(node)
    assert [me.look(), me.look()] == [0.0, 0.0]
    neighbour.go()
    assert [me.look(), me.look()] == [0.0, 1.0]


def test_process_that_came_and_went_between_checks_counts(me, node):
    assert me.look() == 1.0
    Neighbour(node).go()
    assert [me.look(), me.look()] == [0.0, 1.0]


def test_joining_does_not_wait_for_a_process_with_a_higher_pid(node):
    neighbour = Neighbour(node)  # in a child process, with a higher pid, that has already checked
    arrival = threading.Thread(target=lambda: Colocation(node).leave(), daemon=True)
    arrival.start()
    arrival.join(10)
    waits = arrival.is_alive()
    neighbour.go()
    assert not waits


def test_killed_process_does_not_count(me, node):
    neighbour = Neighbour(node)
    assert me.look() == 0.0
    neighbour.process.kill()
    neighbour.process.join(60)
    assert [me.look(), me.look()] == [0.0, 1.0]


def test_other_nodes_do_not_count(me):
    elsewhere = Neighbour(f"test {uuid.uuid4()}")
    assert me.look() == 1.0
    elsewhere.go()


def test_trials_in_one_process_count_if_their_iterations_overlap(me, node):
    second = Colocation(node)
    with me.iteration(), second.iteration():
        pass
    assert (me.look(), second.look()) == (0.0, 0.0)
    with me.iteration():
        pass
    with second.iteration():
        pass
    assert (me.look(), second.look()) == (1.0, 1.0)
    with me.iteration():
        with second.iteration():
            pass
        assert second.look() == 0.0
    assert me.look() == 0.0
    second.leave()


def test_trials_in_one_process_that_take_turns_do_not_count(me, node):
    second = Colocation(node)
    assert me.look() == second.look() == 1.0
    second.leave()
    neighbour = Neighbour(node)
    assert me.look() == 0.0  # leaving must not release the process's lock
    neighbour.go()
