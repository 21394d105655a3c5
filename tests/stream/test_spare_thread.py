"""The thread that works in the gaps of a training: its order, its priority, and its way out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cgn_augment.stream import spare_thread
from cgn_augment.stream.spare_thread import SpareThread

NAME = "spare-of-a-test"

has_gaps = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has SCHED_IDLE")


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(SpareThread, "_not_before", 0.0)
    yield
    assert not [each for each in threading.enumerate() if each.name.startswith(NAME)]


@pytest.fixture
def thread() -> Iterator[SpareThread]:
    spare = SpareThread(NAME)
    yield spare
    spare.close()


@pytest.fixture
def free_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does, the gaps look wide enough."""
    monkeypatch.setattr(spare_thread, "GAPS", 0.0)


def priority() -> int:
    return os.sched_getscheduler(0)


def reach_gaps(thread: SpareThread) -> None:
    """Lets the thread find out that it may run in the gaps."""
    end = time.monotonic() + 60
    while not thread.is_in_gaps and time.monotonic() < end:
        thread.result(thread.submit(int))
        time.sleep(0.01)
    assert thread.is_in_gaps


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@has_gaps
def test_short_jobs_run_in_the_gaps_once_these_are_tried(
    thread: SpareThread, free_core: None
) -> None:
    assert thread.result(thread.submit(priority)) == os.SCHED_OTHER
    reach_gaps(thread)
    later = [thread.submit(priority) for _ in range(3)]
    assert [thread.result(job) for job in later] == [os.SCHED_IDLE] * 3
    assert priority() == os.SCHED_OTHER  # that of the caller


def test_after_a_long_first_job_nothing_is_tried(thread: SpareThread) -> None:
    thread.result(thread.submit(lambda: work(spare_thread.SHORT)))
    for _ in range(5):
        assert thread.result(thread.submit(priority)) == priority()
    assert thread._trying is None


@has_gaps
def test_without_gaps_jobs_run_as_usual_for_a_while(
    thread: SpareThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare_thread, "GAPS", 2.0)  # more than a core
    end = time.monotonic() + 60
    while SpareThread._not_before == 0 and time.monotonic() < end:
        assert thread.result(thread.submit(priority)) == os.SCHED_OTHER
        time.sleep(0.005)
    assert SpareThread._not_before > time.monotonic() + spare_thread.PAUSE / 2
    monkeypatch.setattr(spare_thread, "GAPS", 0.0)
    another = SpareThread(NAME)  # the machine is the same
    for each in [thread, another] * 3:
        assert each.result(each.submit(priority)) == os.SCHED_OTHER
        assert each._trying is None
    another.close()
    monkeypatch.setattr(SpareThread, "_not_before", time.monotonic())
    reach_gaps(thread)


@has_gaps
def test_what_a_trial_finds_after_the_last_job_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare_thread, "GAPS", 2.0)  # more than a core
    thread = SpareThread(NAME)
    for _ in range(2):  # the second one starts the trial
        thread.result(thread.submit(int))
    assert thread._trying is not None
    thread.close()
    assert SpareThread._not_before > time.monotonic()


def test_jobs_run_one_by_one_in_their_order_whoever_runs_them(thread: SpareThread) -> None:
    seen: list[int] = []
    running = threading.Lock()

    def job(number: int) -> None:
        assert running.acquire(blocking=False)
        time.sleep(0.001)
        seen.append(number)
        running.release()

    jobs = []
    for number in range(60):
        jobs.append(thread.submit(lambda number=number: job(number)))  # type: ignore[misc]
        if number in (20, 40):  # by now another thread could have taken over
            thread._hand_over(ThreadPoolExecutor(1, NAME), in_gaps=number == 20)
            time.sleep(0.01)
    for each in jobs:
        thread.result(each)
    assert seen == list(range(60))


@has_gaps
def test_who_waits_for_a_job_without_time_gives_it_back_its_priority(
    thread: SpareThread, free_core: None
) -> None:
    reach_gaps(thread)
    starved = thread.submit(lambda: time.sleep(2 * spare_thread.LONG_WAIT) or priority())
    assert thread.result(starved) == os.SCHED_IDLE
    assert SpareThread._not_before > time.monotonic()
    assert thread.result(thread.submit(priority)) == os.SCHED_OTHER


@has_gaps
def test_who_waits_for_a_job_that_works_leaves_it_where_it_is(
    thread: SpareThread, free_core: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach_gaps(thread)
    monkeypatch.setattr("time.clock_gettime", lambda _: time.monotonic())  # as if on a free core
    thread.result(thread.submit(lambda: time.sleep(2 * spare_thread.LONG_WAIT)))
    assert thread.result(thread.submit(priority)) == os.SCHED_IDLE


@has_gaps
def test_a_system_without_the_priority_runs_all_jobs_as_usual(
    thread: SpareThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.sched_setscheduler", refuse)
    jobs = [thread.result(thread.submit(priority)) for _ in range(3)]
    assert jobs == [os.SCHED_OTHER] * 3


@pytest.mark.parametrize("first", [0, 1])
def test_an_error_of_a_job_is_raised_where_it_is_waited_for(
    thread: SpareThread, first: int
) -> None:
    for _ in range(first):
        thread.result(thread.submit(int))
    wrong = thread.submit(lambda: 1 // 0)
    right = thread.submit(lambda: 7)
    with pytest.raises(ZeroDivisionError):
        thread.result(wrong)
    assert thread.result(right) == 7


def test_closing_waits_for_the_job_that_runs_and_drops_what_is_cancelled() -> None:
    thread, done = SpareThread(NAME), list[int]()
    thread.result(thread.submit(int))
    thread.submit(lambda: time.sleep(0.05) or done.append(1))
    thread.submit(lambda: done.append(2)).cancel()
    thread.close()
    assert done == [1]
