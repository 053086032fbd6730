"""What a chaos run says of itself."""

import pytest

from bridge.simulator.history import History
from tests.chaos.plan import plan
from tests.chaos.replica import Life
from tests.chaos.report import figures, judge, lines, table
from tests.chaos.run import Seen

BEGIN = 1_600_000_000_000_000
PLAN = plan(7, 60, replicas=1)


def seen(*lives: Life, log: list[dict[str, object]] | None = None) -> Seen:
    return Seen(BEGIN, History(), lives=[list(lives)], logs=[log or []])


def kinds(found: Seen) -> list[str]:
    return [violation.kind for violation in judge(PLAN, found).violations]


def test_processes_that_ended_as_they_should_are_right() -> None:
    stopped = Life(BEGIN, BEGIN + 1, status=0, stopped=True, listening=True)
    early = Life(BEGIN, BEGIN + 1, status=-15, stopped=True)
    assert not kinds(seen(Life(BEGIN, BEGIN + 1, status=-9), early, stopped))


def test_a_process_that_ended_by_itself_or_with_another_status_is_found() -> None:
    assert kinds(seen(Life(BEGIN, BEGIN + 1, status=1))) == ["exit status"]
    late = Life(BEGIN, BEGIN + 1, status=-15, stopped=True, listening=True)
    assert kinds(seen(late)) == ["exit status"]


def test_an_internal_error_in_a_log_is_found() -> None:
    life = Life(BEGIN, BEGIN + 1, status=-9)
    assert kinds(seen(life, log=[{"event": "starting"}, {"event": "internal error, stopping"}])) == ["log"]


def test_memory_that_is_large_is_found() -> None:
    large = Life(BEGIN, BEGIN + 1, status=-9, memory=[500 * 2**20])
    assert kinds(seen(large)) == ["memory"]


def grown(*mebibytes: int, samples: int = 30) -> list[Life]:
    """Return processes one after another, each with this memory all the time."""
    return [Life(BEGIN, BEGIN + 1, status=-9, memory=[one * 2**20] * samples) for one in mebibytes]


def test_memory_that_grows_over_several_processes_is_found_in_a_run_of_five_minutes() -> None:
    assert not kinds(seen(*grown(*[60] * 30)))
    assert not kinds(seen(*grown(*[60] * 20, *[95] * 10)))
    assert kinds(seen(*grown(*[60] * 20, *[100] * 10))) == ["memory grows"]
    assert not kinds(seen(*grown(*[60] * 20, *[100] * 10, samples=19)))


@pytest.mark.parametrize(
    "text",
    [
        "Task exception was never retrieved",
        "Task was destroyed but it is pending!",
        "Unclosed client session",
        "Traceback (most recent call last):",
    ],
)
def test_what_python_complains_about_in_a_log_is_found(text: str) -> None:
    life = Life(BEGIN, BEGIN + 1, status=-9)
    assert kinds(seen(life, log=[{"text": text}])) == ["log"]
    assert not kinds(seen(life, log=[{"logger": "aiokafka.consumer", "event": text}]))


def test_the_report_names_each_violation_with_its_time_and_the_seed() -> None:
    found = seen(Life(BEGIN, BEGIN + 2_000_000, status=3))
    text = "\n".join(lines(PLAN, found, judge(PLAN, found)))
    assert "    2.00 s replica 0 exit status 3" in text
    assert text.endswith("1 violations, seed 7")


def test_the_figures_of_several_runs_are_a_table_with_their_sum() -> None:
    found = seen(Life(BEGIN, BEGIN + 1, status=-9, memory=[64 * 2**20]))
    one = figures(PLAN, found, judge(PLAN, found))
    rows = list(table([one, {**one, "seed": 8}]))
    assert len(rows) == 5
    assert len({row.count("|") for row in rows}) == 1
    assert rows[2].startswith("| 7 | ")
    assert rows[4].startswith("| all | | | 120 | ")
