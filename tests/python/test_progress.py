from __future__ import annotations

import io

import pytest

from koopflow.progress import ProgressMeter, format_values


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(step, stage="student", **values):
    return {
        "stage": stage,
        "step": step,
        "total": 10,
        "seconds": 0.5 * step,
        "values": values or {"loss": 0.25},
    }


def test_a_terminal_gets_a_bar_with_every_value():
    stream = Terminal()
    with ProgressMeter(stream=stream) as meter:
        meter(event(4, endpoint=0.125, endpoint_error=0.0625))
    drawn = stream.getvalue()
    assert "distilling" in drawn
    assert "4/10" in drawn
    assert "endpoint 0.125, endpoint error 0.0625" in drawn


def test_a_new_stage_gets_a_bar_of_its_own():
    stream = Terminal()
    with ProgressMeter(stream=stream) as meter:
        meter(event(10, stage="trajectories"))
        meter(event(1))
    drawn = stream.getvalue()
    assert drawn.index("teacher trajectories") < drawn.index("distilling")
    assert drawn.count("\n") == 2


def test_a_note_is_printed_and_the_bar_goes_on():
    stream = Terminal()
    with ProgressMeter(stream=stream) as meter:
        meter(event(2))
        meter({**event(3), "values": {}, "note": "back to step 1"})
        meter(event(4))
    drawn = stream.getvalue()
    assert "back to step 1\n" in drawn
    assert drawn.index("2/10") < drawn.index("back to step 1") < drawn.index("4/10")


def test_nothing_is_drawn_where_nobody_looks():
    stream = io.StringIO()
    with ProgressMeter(stream=stream) as meter:
        assert meter.monitor is None
        meter(event(1))
    assert stream.getvalue() == ""


def test_silence_on_request():
    stream = Terminal()
    with ProgressMeter(progress=False, stream=stream) as meter:
        assert meter.monitor is None
        meter(event(1))
    assert stream.getvalue() == ""


def test_a_function_takes_the_place_of_the_bar_and_a_callback_joins_it():
    stream, shown, logged = Terminal(), [], []
    with ProgressMeter(progress=shown.append, callback=logged.append, stream=stream) as meter:
        assert meter.monitor is meter
        meter(event(3))
    assert shown == logged == [event(3)]
    assert stream.getvalue() == ""


class Logger:
    """What services put in the place of standard error."""

    def write(self, text):
        return len(text)


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Logger(), closed()])
def test_nothing_is_drawn_without_a_whole_standard_error(stream, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    with ProgressMeter(progress=True) as meter:
        assert meter.monitor is None
        meter(event(1))


def test_a_terminal_that_goes_away_ends_the_bar_only():
    stream, logged = Terminal(), []
    with ProgressMeter(callback=logged.append, stream=stream) as meter:
        meter(event(1))
        stream.close()
        meter(event(2))
        meter(event(3))
    assert logged == [event(1), event(2), event(3)]


def test_ctrl_c_in_a_listener_is_left_to_the_core():
    def interrupt(_):
        raise KeyboardInterrupt

    with ProgressMeter(progress=False, callback=interrupt) as meter, pytest.raises(KeyboardInterrupt):
        meter(event(1))


@pytest.mark.parametrize("arguments", [{"progress": "yes"}, {"callback": 3}])
def test_what_is_not_a_function_is_refused(arguments):
    with pytest.raises(TypeError, match=f"{next(iter(arguments))}: expected"):
        ProgressMeter(**arguments)


def test_values_are_short():
    assert format_values({"a_b": 1.0, "c": 1.23456e-7}) == "a b 1, c 1.23e-07"
