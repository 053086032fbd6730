"""Standard error never makes its writer wait; what it drops is counted, and reported once it flows again."""

import fcntl
import json
import logging
import os
import sys
import termios
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import structlog

from bridge.config import LogConfig
from bridge.watch import logs
from bridge.watch.metrics import Metrics
from bridge.watch.stderr import MOST_BYTES, Stderr
from tests.support.waiting import eventually

PAGE = 4096  # bytes, the smallest pipe
LINE = "x" * 1023 + "\n"


class Pipe(NamedTuple):
    """Both ends of a pipe that has room for a few lines."""

    reader: int
    writer: int


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe; a logging configuration that a test makes ends with it."""
    root = logging.getLogger()
    handlers, level, own_level = root.handlers, root.level, logging.getLogger("bridge").level
    ends = Pipe(*os.pipe())
    fcntl.fcntl(ends.writer, fcntl.F_SETPIPE_SZ, PAGE)
    yield ends
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)
    logging.getLogger("bridge").setLevel(own_level)
    for end in ends:
        os.close(end)


def read_until(reader: int, end: str) -> str:
    """Return what a reader gets, up to a text."""
    text = b""
    while end.encode() not in text:
        text += os.read(reader, 65_536)
    return text.decode()


def waiting_in(reader: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)


def dropped(stream: Stderr) -> float:
    """Return the number of lines dropped so far, as in the metrics of a bridge that starts now."""
    counter = Metrics().counter("log_lines_dropped_total")
    stream.count_in(counter)
    return counter.value


def test_what_nobody_reads_waits_and_comes_in_order(pipe: Pipe) -> None:
    stream = Stderr(pipe.writer)
    for number in range(1000):
        print(f"line {number}", file=stream)
    print("end", file=stream)
    assert read_until(pipe.reader, "end\n") == "".join(f"line {n}\n" for n in range(1000)) + "end\n"
    assert dropped(stream) == 0


def test_the_oldest_lines_make_room_for_the_newest_and_their_number_is_reported_in_their_place(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stderr(pipe.writer)
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(LogConfig.model_validate({"format": "json"}))
    for _ in range(2 * MOST_BYTES // len(LINE)):
        stream.write(LINE)
    stream.write("the last words\n")
    number = dropped(stream)
    assert number > MOST_BYTES / len(LINE) / 2
    lines = read_until(pipe.reader, "the last words\n").splitlines(keepends=True)
    # On a busy machine the thread may report the first ones before the rest is dropped.
    reports = [line for line in lines if '"log lines dropped"' in line]
    assert sum(json.loads(report)["lines"] for report in reports) == number
    # In front of that is what the pipe and the thread had before the first one was dropped.
    assert lines.index(reports[0]) <= PAGE / len(LINE) + 1
    assert set(lines) == {LINE, *reports, "the last words\n"}


def test_no_number_of_dropped_lines_is_left_out_however_often_it_happens(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stderr(pipe.writer)
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(LogConfig.model_validate({"format": "json"}))
    text = ""
    for number in range(15):
        for _ in range(MOST_BYTES // len(LINE) + 16):
            stream.write(LINE)
        stream.write(f"the end {number}\n")
        text += read_until(pipe.reader, f"the end {number}\n")
    stream.write("all\n")  # behind the last report
    text += read_until(pipe.reader, "all\n")
    reports = [line for line in text.splitlines() if '"log lines dropped"' in line]
    assert sum(json.loads(report)["lines"] for report in reports) == dropped(stream) > 0


def test_a_reader_that_is_too_slow_for_good_gets_lines_and_few_reports(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stderr(pipe.writer)
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(LogConfig.model_validate({"format": "json"}))
    for _ in range(2 * MOST_BYTES // len(LINE)):
        stream.write(LINE)
    text = ""
    for _ in range(50):
        eventually(lambda: waiting_in(pipe.reader) > PAGE - len(LINE), 60, "nothing more fits into the pipe")
        text += os.read(pipe.reader, PAGE).decode()
        for _ in range(10):  # for which there is no room
            stream.write(LINE)
    stream.write("end\n")
    text += read_until(pipe.reader, "end\n")
    reports = [line for line in text.splitlines() if '"log lines dropped"' in line]
    assert sum(json.loads(report)["lines"] for report in reports) == dropped(stream) > 100
    # One at once, one when the reader has caught up, and more only if that took longer than ten seconds.
    assert len(reports) < 10


def test_a_line_larger_than_all_that_may_wait_is_dropped_alone(pipe: Pipe) -> None:
    stream = Stderr(pipe.writer)
    stream.write("y" * (MOST_BYTES + 1))
    stream.write("end\n")
    assert "y" not in read_until(pipe.reader, "end")
    assert dropped(stream) == 1


def test_a_descriptor_that_is_not_blocking_gets_everything_too(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    stream = Stderr(pipe.writer)
    for _ in range(100):
        stream.write(LINE)
    stream.write("end\n")
    assert read_until(pipe.reader, "end").count(LINE) == 100


@pytest.mark.usefixtures("pipe")  # which ends the logging configuration
def test_lines_to_a_full_disk_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a report, which it would not take either."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        stream = Stderr(full.fileno())
        monkeypatch.setattr("sys.stderr", stream)
        logs.configure(LogConfig.model_validate({"format": "json"}))
        for _ in range(10):
            stream.write(LINE)
        assert stream.drain(60)
        assert dropped(stream) == 10


def test_a_lost_reader_costs_lines_only(pipe: Pipe) -> None:
    reader, writer = os.pipe()
    stream = Stderr(writer)
    os.close(reader)
    for _ in range(3):
        stream.write(LINE)
    assert stream.drain(60)
    assert dropped(stream) == 3
    os.dup2(pipe.writer, writer)  # as if it was read again
    stream.write("end\n")
    assert read_until(pipe.reader, "end\n") == "end\n"
    os.close(writer)


def test_the_end_waits_for_the_last_lines_but_not_for_ever(pipe: Pipe) -> None:
    stream = Stderr(pipe.writer)
    for _ in range(8):
        stream.write(LINE)
    assert not stream.drain(0.01)
    while not stream.drain(0.01):
        os.read(pipe.reader, PAGE)
    eventually(lambda: stream.drain(0), 10, "nothing left")


def test_text_that_is_no_utf_8_is_written_with_escapes(pipe: Pipe) -> None:
    stream = Stderr(pipe.writer)
    stream.write("file \udce9\n")
    assert read_until(pipe.reader, "\n") == "file \\udce9\n"
