import errno
import math
import multiprocessing
import os
import threading
import uuid

import pytest

from rl_scaling_callback.live.machine import Colocation


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


def test_iterations_of_other_trials_that_overlap_count(me, host):
    other = Colocation(host)
    assert math.isnan(other.exclusive)
    assert [iterate(me), iterate(me, lambda: iterate(other)), other.exclusive, iterate(me)] == [1.0, 0.0, 0.0, 1.0]
    with other.iteration():
        assert [iterate(me), iterate(Colocation(f"test {uuid.uuid4()}"))] == [0.0, 1.0]
        idle = me.iteration()
    assert other.exclusive == 0.0
    with idle:  # it began in between and goes on
        assert iterate(other) == 0.0
    assert [iterate(other), me.exclusive] == [1.0, 0.0]


def train_until_killed(host, begun):
    with Colocation(host).iteration():
        begun.set()
        threading.Event().wait(60)


def test_a_trial_in_another_process_counts_until_it_is_killed(me, host):
    processes = multiprocessing.get_context("spawn")
    other = processes.Process(target=train_until_killed, args=(host, begun := processes.Event()))
    other.start()
    assert begun.wait(60)
    assert iterate(me) == 0.0
    other.kill()
    other.join(60)
    assert iterate(me) == 1.0


def test_a_process_forked_meanwhile_does_not_hold_the_lock(me, host):
    with me.iteration():
        read, write = os.pipe()
        if os.fork() == 0:
            os.read(read, 1)
            os._exit(0)
    assert iterate(Colocation(host)) == 1.0
    os.write(write, b".")


def test_full_disk_is_unknown_not_an_error_and_makes_nobody_wait(me, host, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with me.iteration():
            assert math.isnan(iterate(Colocation(host)))
        assert math.isnan(me.exclusive)
    assert iterate(me) == 1.0
