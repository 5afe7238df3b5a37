"""Signals are noted, never lost, and end what runs. Real signals to real processes, forked from this one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from scaleeq.stopping import SAME_S, Stopped, UntilStopped, check_stop, share_stops, stop_requested, stop_signals

FORK = multiprocessing.get_context("fork")
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


@contextlib.contextmanager
def running(work, *arguments):
    """A process that does `work(say, *arguments)`, once it has said so; its handlers are those of a fresh Python."""
    line, other = FORK.Pipe()

    def run():
        for number in STATUS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        work(other.send, *arguments)

    process = FORK.Process(target=run)
    process.start()
    try:
        assert line.recv() == "ready"
        yield process, line
    finally:
        process.kill()
        process.join()


def steps(say, at_once=False):
    """Steps of a tenth of a second, with a look after each."""
    with stop_signals(at_once=at_once):
        say("ready")
        for _ in range(600):
            until = time.monotonic() + 0.1
            while time.monotonic() < until:
                time.sleep(0.01)
            with contextlib.suppress(OSError):
                say("step")
            check_stop()


@pytest.mark.parametrize("number", STATUS)
def test_a_step_is_finished_and_the_status_names_the_signal(number):
    with running(steps) as (process, line):
        os.kill(process.pid, number)
        process.join(10)
        assert process.exitcode == STATUS[number]
        assert line.recv() == "step"


def swallowing(say):
    """What a loader that is being ended does with an exception out of a handler."""

    class Worker:
        def __del__(self):
            say("ready")
            time.sleep(0.5)

    with stop_signals(at_once=True):
        for _ in UntilStopped(range(2)):
            worker = Worker()
            del worker


def test_a_signal_in_a_destructor_is_not_lost():
    with running(swallowing) as (process, _):
        os.kill(process.pid, signal.SIGINT)
        process.join(10)
        assert process.exitcode == 130


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def long_step(say, at_once):
    with stop_signals(at_once=at_once):
        child = FORK.Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
        say("ready")
        say(child.pid)
        time.sleep(60)


def test_a_second_signal_ends_a_step_and_its_workers_at_once():
    with running(long_step, False) as (process, line):
        worker = line.recv()
        os.kill(process.pid, signal.SIGTERM)
        process.join(SAME_S + 0.3)
        assert process.is_alive(), "it finishes its step"
        os.kill(process.pid, signal.SIGINT)
        process.join(10)
        assert process.exitcode == 130
        until = time.monotonic() + 10
        while is_running(worker) and time.monotonic() < until:
            time.sleep(0.01)
        assert not is_running(worker)


def test_where_nothing_is_half_done_the_first_one_ends_at_once():
    with running(long_step, True) as (process, _):
        os.kill(process.pid, signal.SIGTERM)
        process.join(10)
        assert process.exitcode == 143


def start_and_end_workers(say):
    with stop_signals(at_once=True):
        say("ready")
        for _ in range(40):
            worker = FORK.Process(target=time.sleep, args=(60,), daemon=True)
            worker.start()
            worker.terminate()  # Python's callbacks after a fork may still run in it, with its owner's handlers
            worker.join(5)
            if worker.exitcode is None:
                worker.kill()
                raise SystemExit(1)


def test_a_worker_that_is_told_to_end_while_it_is_forked_ends():
    with running(start_and_end_workers) as (process, _):
        process.join(60)
        assert process.exitcode == 0


def start_worker(say, line):
    with stop_signals(at_once=False):
        say("ready")
        for _ in range(10):
            worker = FORK.Process(target=time.sleep, args=(60,), daemon=True)
            worker.start()
            say(worker.pid)
            line.recv()
            worker.join(0.05)
            alive = worker.is_alive()
            worker.terminate()
            worker.join(10)
            say((alive, worker.exitcode))


@pytest.mark.skipif(sys.platform != "linux", reason="tells who has sent a signal")
def test_a_worker_that_was_just_forked_leaves_signals_of_others_to_its_owner():
    ours, theirs = FORK.Pipe()
    with running(start_worker, theirs) as (_, line):
        for count in range(10):
            worker = line.recv()
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                os.kill(worker, number)
            if count == 0:  # a second time, which would end its owner at once
                time.sleep(2 * SAME_S)
                for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                    os.kill(worker, number)
            ours.send("sent")
            assert line.recv() == (True, 0), "it lived, and ended when its owner told it"


def test_the_same_signal_twice_is_one():
    """A terminal sends it to all, and the command around this one passes it on."""
    with running(steps) as (process, line):
        for _ in range(3):
            os.kill(process.pid, signal.SIGINT)
        process.join(10)
        assert process.exitcode == 130 and line.recv() == "step"


def test_a_signal_to_one_process_of_a_job_is_for_all():
    asked = FORK.Value("i", 0, lock=False)

    def rank(say):
        share_stops(asked)
        steps(say)

    with running(rank) as (first, _), running(rank) as (second, _):
        os.kill(second.pid, signal.SIGTERM)
        for process in (first, second):
            process.join(10)
        assert [first.exitcode, second.exitcode, asked.value] == [143, 143, 15]


def ignoring(say):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    steps(say)


def test_what_is_ignored_stays_ignored():
    with running(ignoring) as (process, _):
        os.kill(process.pid, signal.SIGHUP)
        process.join(0.5)
        assert process.is_alive()
        os.kill(process.pid, signal.SIGTERM)
        process.join(10)
        assert process.exitcode == 143


def test_the_handlers_of_before_come_back_and_the_note_is_gone():
    def own(number, frame):
        raise AssertionError

    before = {number: signal.signal(number, own) for number in STATUS}
    try:
        with pytest.raises(Stopped) as stop, stop_signals(at_once=True), stop_signals(at_once=False):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            assert stop_requested() == signal.SIGTERM, "noted, and not raised: the inner one decides"
        assert stop.value.code == 143 and stop.value.signal_name == "SIGTERM"
        assert all(signal.getsignal(number) is own for number in STATUS)
        assert not stop_requested()
        with stop_signals(at_once=True):
            check_stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_off_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stop_signals(at_once=False):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_length_is_kept():
    assert len(UntilStopped([1, 2, 3])) == 3 and list(UntilStopped([1, 2, 3])) == [1, 2, 3]
