import errno
import math
import multiprocessing
import os
import threading
import uuid
from contextlib import nullcontext

import pytest

from rl_scaling_callback.live.machine import Colocation

PROCESSES = multiprocessing.get_context("spawn")


def live(host, states, begun, go_on):
    """Pass through the states, each begun at once and ended when told to."""
    neighbour = Colocation(host)
    for state in states:
        with neighbour.iteration() if state == "trains" else nullcontext():
            begun.set()
            go_on.wait(60)
            go_on.clear()


class Neighbour:
    """A trial in another process that is `idle` or `trains`."""

    def __init__(self, host, *states):
        self.begun, self._go_on = PROCESSES.Event(), PROCESSES.Event()
        self.process = PROCESSES.Process(target=live, args=(host, states, self.begun, self._go_on))
        self.process.start()
        assert self.begun.wait(60)

    def go_on(self):
        self.begun.clear()
        self._go_on.set()
        assert self.begun.wait(60)

    def end(self):
        self._go_on.set()
        self.process.join(60)
        assert not self.process.is_alive()


def iterate(trial, meanwhile=lambda: None):
    with trial.iteration():
        meanwhile()
    return trial.exclusive


@pytest.fixture
def host():
    return f"test {uuid.uuid4()}"


@pytest.fixture
def me(host):
    return Colocation(host)


def test_iterations_that_began_and_ended_in_between_count(me, host):
    def run():
        Neighbour(host, "trains").end()

    assert [iterate(me), iterate(me, run), iterate(me)] == [1.0, 0.0, 1.0]
    run()
    assert iterate(me) == 1.0


def test_idle_process_does_not_count(me, host):
    neighbour = Neighbour(host, "idle", "trains", "idle")
    assert math.isnan(me.exclusive)
    assert [iterate(me), iterate(me)] == [1.0, 1.0]
    assert [iterate(me, neighbour.go_on), iterate(me)] == [0.0, 0.0]
    neighbour.go_on()
    assert iterate(me) == 1.0
    neighbour.end()


def test_starting_an_iteration_does_not_wait_for_a_process_with_a_higher_pid(me, host):
    neighbour = Neighbour(host, "trains")  # in a child process, with a higher pid
    arrival = threading.Thread(target=iterate, args=(me,), daemon=True)
    arrival.start()
    arrival.join(10)
    waits = arrival.is_alive()
    neighbour.end()
    assert not waits


def test_killed_processes_and_other_hosts_do_not_count(me, host):
    neighbour, elsewhere = Neighbour(host, "trains"), Neighbour(f"test {uuid.uuid4()}", "trains")
    assert iterate(me) == 0.0
    neighbour.process.kill()
    neighbour.process.join(60)
    assert iterate(me) == 1.0
    elsewhere.end()


def test_full_disk_is_unknown_not_an_error(me, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert math.isnan(iterate(me))
    assert iterate(me) == 1.0


def test_trials_in_one_process_count_if_their_iterations_overlap(me, host):
    second = Colocation(host)
    with me.iteration(), second.iteration():
        pass
    assert (me.exclusive, second.exclusive) == (0.0, 0.0)
    assert (iterate(me), iterate(second)) == (1.0, 1.0)
    with me.iteration():
        with second.iteration():
            pass
        assert second.exclusive == 0.0
    assert me.exclusive == 0.0
