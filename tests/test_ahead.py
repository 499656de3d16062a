"""A thread makes items ahead: their order, errors, how far it goes, and how it ends."""

import threading

import pytest

from production.ahead import made_ahead


def test_items_keep_their_order_and_are_made_by_another_thread() -> None:
    makers = set()

    def items():
        for number in range(50):
            makers.add(threading.current_thread())
            yield number

    assert list(made_ahead(items(), 3)) == list(range(50))
    assert threading.current_thread() not in makers


def test_an_error_comes_after_the_items_before_it() -> None:
    def items():
        yield 1
        raise ValueError("the second item")

    ahead = made_ahead(items(), 5)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second item"):
        next(ahead)


def test_no_more_items_are_made_than_there_is_room_for_and_an_early_end_stops_the_thread() -> None:
    made, third = [], threading.Event()

    def items():
        for number in range(100):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    ahead = made_ahead(items(), 2)
    assert next(ahead) == 0
    assert third.wait(10)  # one in use, two ahead
    ahead.close()
    assert made == [0, 1, 2]
    assert all(thread.name != "ahead" for thread in threading.enumerate())
