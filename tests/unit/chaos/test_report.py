"""What a chaos run says of itself."""

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


def test_memory_that_is_large_or_grows_is_found() -> None:
    flat = Life(BEGIN, BEGIN + 1, status=-9, memory=[60 * 2**20] * 300)
    assert not kinds(seen(flat))
    large = Life(BEGIN, BEGIN + 1, status=-9, memory=[500 * 2**20])
    assert kinds(seen(large)) == ["memory"]
    grows = Life(BEGIN, BEGIN + 1, status=-9, memory=[30 * 2**20 + n * 2**18 for n in range(300)])
    assert kinds(seen(grows)) == ["memory grows"]


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
