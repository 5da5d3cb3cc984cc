"""Other trials and other programs on the machine."""

import errno
import math
import multiprocessing
import os
import threading
import time
import uuid

import pytest

from rl_scaling_callback.live.machine import Colocation, Load
from rl_scaling_callback.rllib.configs import has_other_workers
from rl_scaling_callback.rllib.hardware import _quota


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


@pytest.mark.parametrize(
    ("cores", "utilisation", "runners_cpu_s", "own", "others"),
    [
        (4.0, 100.0, (1.5, 2.0), 2.0, 2.0),
        (4.0, 50.0, (1.5, 2.0), 2.0, 0.0),
        (4.0, 25.0, (), 0.25, 0.75),  # no env runner in another process
        (4.0, 50.0, (1.5, None), math.nan, math.nan),  # one doesn't report
        (4.0, math.nan, (1.0, 1.0), 1.25, math.nan),
        (math.nan, 50.0, (1.0, 1.0), 1.25, math.nan),
    ],
)
def test_others_use_the_cores_that_the_trial_does_not(cores, utilisation, runners_cpu_s, own, others, monkeypatch):
    """In 2 s, the Algorithm's process uses a core for 0.5 s."""
    now = [10.0, 10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: now[1])
    load = Load(cores, len(runners_cpu_s))
    for _ in range(2):  # each call measures from the previous one
        now[:] = now[0] + 2.0, now[1] + 0.5
        found = load.read(utilisation, [seconds for seconds in runners_cpu_s if seconds is not None])
        assert found == pytest.approx((own, others), nan_ok=True)


OTHERS = {"num_learners": 1, "evaluation_num_env_runners": 2, "num_aggregator_actors_per_learner": 1, "remote_worker_envs": True}


@pytest.mark.parametrize(("name", "value"), [*OTHERS.items(), ("gym_env_vectorize_mode", "ASYNC")])
def test_other_processes_of_a_trial(name, value):
    assert has_other_workers({name: value})
    assert not has_other_workers({name: 0})
    assert not has_other_workers({"gym_env_vectorize_mode": "SYNC", "num_learners": 0, "remote_worker_envs": False})


@pytest.mark.parametrize(("text", "cpus"), [("150000 100000\n", 1.5), ("max 100000\n", math.inf), ("junk\n", math.inf)])
def test_quota_of_a_container(tmp_path, text, cpus):
    file = tmp_path / "cpu.max"
    assert _quota(file) == math.inf
    file.write_text(text)
    assert _quota(file) == cpus
