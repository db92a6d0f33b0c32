import threading
import time
from functools import partial

import pytest
import torch

from nldiff.cores import side_by_side


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(autouse=True)
def _threads_as_before() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_results_are_in_order_whatever_takes_longer(threads: int) -> None:
    torch.set_num_threads(threads)

    def piece(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number

    assert side_by_side(partial(piece, number) for number in range(5)) == [0, 1, 2, 3, 4]
    assert side_by_side([]) == []


def test_as_many_run_at_once_as_threads_are_allowed(threads: int) -> None:
    torch.set_num_threads(threads)
    barrier = threading.Barrier(threads, timeout=10)  # breaks if fewer than that run at once
    side_by_side([barrier.wait] * threads)
    running, most, lock = 0, 0, threading.Lock()

    def piece() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    side_by_side([piece] * 8)
    assert most == threads


def test_operations_inside_have_one_thread_and_those_after_have_all_again() -> None:
    torch.set_num_threads(2)
    assert side_by_side([torch.get_num_threads] * 4) == [1, 1, 1, 1]
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), fresh) == (2, [2])


def test_pieces_that_would_leave_threads_idle_have_all_of_them_one_by_one() -> None:
    torch.set_num_threads(3)
    assert side_by_side([torch.get_num_threads] * 5) == [1, 1, 1, 3, 3]
    # Too few from the start: side by side, as each alone would wait at every operation.
    assert side_by_side([torch.get_num_threads] * 2) == [1, 1]


def test_pieces_within_pieces_run_one_after_the_other() -> None:
    torch.set_num_threads(2)
    inner = side_by_side([lambda: side_by_side([threading.get_ident] * 3)] * 2)
    assert all(len(set(idents)) == 1 for idents in inner)


def test_a_piece_that_fails_ends_the_work(threads: int) -> None:
    torch.set_num_threads(threads)
    started = []

    def piece(number: int) -> None:
        started.append(number)
        if number == 0:
            raise ValueError("first")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="first"):
        side_by_side(partial(piece, number) for number in range(20))
    assert len(started) < 20
