"""Processes: their order and number, failures, stops, locks. The jobs are small programs of this Python."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from scaleeq.experiments import jobs as jobs_module
from scaleeq.experiments import machine
from scaleeq.experiments.jobs import CONSOLE, LOCK, Job, Pool
from scaleeq.folder_lock import RUNNING

LOG = "import sys, time; f = open(sys.argv[1], 'a'); f.write(sys.argv[2] + chr(10)); f.close(); "


def job(folder, name, code="", *arguments):
    program = [sys.executable, "-S", "-c", LOG + code, str(folder / "log.txt"), name, *arguments]
    return Job(name, folder / name, program)


def logged(folder):
    return (folder / "log.txt").read_text().split()


def test_jobs_start_in_order_and_a_failed_one_stops_no_other(tmp_path):
    ends = []
    jobs = [job(tmp_path, "a"), job(tmp_path, "b", "print('why'); sys.exit(3)"), job(tmp_path, "c")]
    found = Pool(jobs=1).run(jobs, ends.append)
    assert logged(tmp_path) == ["a", "b", "c"]
    assert [(end.job.name, end.status) for end in found] == [("a", 0), ("b", 3), ("c", 0)] and found == ends
    assert (tmp_path / "b" / CONSOLE).read_text() == "why\n"


@pytest.mark.parametrize("limit", [1, 2])
def test_at_most_so_many_run_at_a_time(tmp_path, limit):
    code = "time.sleep(0.3); f = open(sys.argv[1], 'a'); f.write('-' + sys.argv[2] + chr(10))"
    Pool(jobs=limit).run([job(tmp_path, name, code) for name in "abcd"], lambda end: None)
    running, most = 0, 0
    for word in logged(tmp_path):
        running += -1 if word.startswith("-") else 1
        most = max(most, running)
    assert most == limit


def test_a_stop_ends_every_process_with_its_children(tmp_path):
    """The job starts a child of its own, as a loader's workers are."""
    code = (
        "import subprocess; child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); "
        "open(sys.argv[3], 'w').write(str(child.pid)); time.sleep(60)"
    )
    pid_file = tmp_path / "pid"

    def stop(end):
        while not (pid_file.exists() and pid_file.read_text()):
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pool(jobs=2).run([job(tmp_path, "long", code, str(pid_file)), job(tmp_path, "short")], stop)
    pid = int(pid_file.read_text())
    until = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


HOLD = "import sys; from scaleeq.folder_lock import FolderLock; lock = FolderLock(sys.argv[1], sys.argv[2]); "
HOLD += "lock.acquire(); print('held', flush=True); sys.stdin.readline()"


@pytest.mark.parametrize("name", [LOCK, RUNNING])
def test_a_job_that_another_process_has_is_left_to_it_until_it_ends(tmp_path, monkeypatch, name):
    """LOCK: another caller runs it; RUNNING: a run that was started by hand, or whose caller was killed."""
    monkeypatch.setattr(jobs_module, "BUSY_S", 0.05)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "a"), name]
    said = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"

        def end(end):
            assert logged(tmp_path) == (["b"] if end.job.name == "b" else ["b", "a"])
            if end.job.name == "b":
                holder.communicate("\n")

        ends = Pool(jobs=2, say=said.append).run([job(tmp_path, "a"), job(tmp_path, "b")], end)
    assert [end.job.name for end in ends] == ["b", "a"]
    assert len(said) == 1 and said[0].startswith("a: ") and f"process {holder.pid} on {socket.gethostname()}" in said[0]


def call(folder, code, *arguments):
    """A caller of six jobs, as a process, one at a time; it ends well where all are done."""

    def run():
        for number in (signal.SIGINT, signal.SIGHUP):  # a job in the background ignores them
            signal.signal(number, signal.SIG_DFL)
        pool = Pool(jobs=1, done=lambda job: (job.folder / "done").exists())
        jobs = [job(folder, name, code, *arguments) for name in "abcdef"]
        pool.run(jobs, lambda end: (end.job.folder / "done").touch())
        assert all((folder / name / "done").exists() for name in "abcdef")

    caller = multiprocessing.get_context("fork").Process(target=run)
    caller.start()
    return caller


def test_two_callers_share_the_jobs_and_each_waits_for_all(tmp_path):
    callers = [call(tmp_path, "time.sleep(0.3)") for _ in range(2)]
    for caller in callers:
        caller.join(timeout=100)
    assert [caller.exitcode for caller in callers] == [0, 0]
    assert sorted(logged(tmp_path)) == list("abcdef"), "each ran once"
    assert not list(tmp_path.rglob(LOCK))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_jobs_end_before_they_are_killed(tmp_path, number):
    """The first job answers as a training does; its caller gets the signal while it runs."""
    answer = "import signal; signal.signal(15, lambda *_: (open(sys.argv[3], 'w').close(), sys.exit(0))); "
    answer += "open(sys.argv[4], 'w').close(); time.sleep(60)"
    saved, ready = tmp_path / "saved", tmp_path / "ready"
    caller = call(tmp_path, answer, str(saved), str(ready))
    until = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < until:
        time.sleep(0.02)
    started = time.monotonic()
    os.kill(caller.pid, number)
    caller.join(timeout=60)
    assert caller.exitcode == 128 + (2 if number == signal.SIGINT else 15)
    assert time.monotonic() - started < 10 and saved.exists() and logged(tmp_path) == ["a"]


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux alone says what memory a tree takes")
def test_the_number_at_a_time_follows_from_the_memory_of_the_first(tmp_path, monkeypatch):
    """A job of about 100 MiB, and room for two more beside it."""
    monkeypatch.setattr(jobs_module, "MEMORY_S", 0.2)
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "free_mib", lambda: 300.0)
    said = []
    hold = "x = b'1' * (100 << 20); open(sys.argv[3], 'w').close(); time.sleep(1.0)"
    flags = {name: tmp_path / f"{name}.ready" for name in "abcd"}
    pool = Pool(jobs=None, settled=lambda job: flags[job.name].exists() and pool_has_looked(pool), say=said.append)

    def pool_has_looked(pool):
        return any((running.peak_mib or 0) > 100 for running in pool._running)

    ends = pool.run([job(tmp_path, name, hold, str(flag)) for name, flag in flags.items()], lambda end: None)
    assert pool.limit == 3 and len(said) == 1 and "8 cores: 8" in said[0]
    assert all(100 < end.peak_mib < 130 for end in ends)


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux alone says what memory a tree takes")
def test_the_number_at_a_time_follows_from_the_gpus_memory_that_the_first_takes(tmp_path, monkeypatch):
    """Of two GPUs with 1000 MiB, 90 % of which may be used, it takes 200 MiB on one at most: four fit on each."""
    free, done = [[950.0, 1000.0], [800.0, 1000.0], [900.0, 1000.0], [1000.0, 1000.0]], tmp_path / "done"

    def settled(job):
        if len(free) == 1:
            done.touch()
        return len(free) == 1

    monkeypatch.setattr(jobs_module, "MEMORY_S", 0.05)
    monkeypatch.setattr(machine, "cores", lambda: 99)
    monkeypatch.setattr(machine, "free_mib", lambda: 1e6)
    monkeypatch.setattr(machine, "gpus_free_mib", lambda: free.pop() if len(free) > 1 else free[0])
    pool = Pool(jobs=None, settled=settled, say=lambda text: None)
    wait = "import os; [time.sleep(0.01) for _ in range(6000) if not os.path.exists(sys.argv[3])]"
    pool.run([job(tmp_path, "a", wait, str(done))], lambda end: None)
    assert pool.limit == 8


def test_memory_of_a_tree_counts_children():
    hold = "x = b'1' * (50 << 20)"
    code = f"import subprocess, sys; {hold}; subprocess.run([sys.executable, '-S', '-c', sys.argv[1]])"
    inner = f"{hold}; print('ready', flush=True); import time; time.sleep(30)"
    command = [sys.executable, "-S", "-c", code, inner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            process.stdout.readline()
            assert 100 < machine.tree_mib(process.pid) < 140
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert machine.tree_mib(process.pid) is None, "it is gone"


def test_free_memory_is_within_the_limit_of_a_container(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 4096000 kB\nMemAvailable: 2048000 kB\n")
    assert machine.free_mib(tmp_path, tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{100 << 20}\n")
    assert machine.free_mib(tmp_path, tmp_path) == 2000
    (tmp_path / "memory.max").write_text(f"{600 << 20}\n")
    assert machine.free_mib(tmp_path, tmp_path) == 500
    assert machine.free_mib(tmp_path / "nowhere", tmp_path) is None


def test_gpus_are_those_that_runs_may_use():
    """The format is that of `nvidia-smi --query-gpu=index,memory.free --format=csv,noheader,nounits`."""
    output = "0, 81000\n1, 40000\n2, 100\n"
    assert machine.parse_gpus(output, None) == [81000, 40000, 100]
    assert machine.parse_gpus(output, "2,0") == [100, 81000]
    assert machine.parse_gpus(output, "") == [] == machine.parse_gpus("No devices were found\n", None)
    assert machine.parse_gpus(output, "GPU-5f3a") == [81000, 40000, 100]


@pytest.mark.parametrize(("free", "one", "more"), [(1000.0, 100.0, 9), (100.0, 1000.0, 0), (1000.0, 0.0, 900)])
def test_runs_that_fit(free, one, more):
    assert machine.more_runs(free, one) == more


def test_less_than_one_at_a_time_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Pool(jobs=0)
