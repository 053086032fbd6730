"""Findings become verdicts, and the report says what each verdict means for the data."""

import pytest

from bridge.exchange.assumptions import ASSUMPTIONS
from bridge.probe import report
from bridge.probe.findings import Findings, Verdict
from bridge.probe.messages import Messages
from bridge.probe.steps import Timed


def lines(findings: Findings) -> list[str]:
    return [line.strip() for line in report.lines(Messages(findings, 1), Timed(), 1.0)]


def test_one_case_against_an_assumption_outweighs_all_others_and_is_shown() -> None:
    findings = Findings()
    for number in range(5):
        findings.note("adds", holds=number != 3, evidence=f"case {number}")
    assert findings.of["adds"].verdict is Verdict.DOES_NOT_HOLD
    assert "case 3 (1 of 5)" in lines(findings)
    assert f"so: {ASSUMPTIONS['adds'].otherwise}" in lines(findings)


def test_what_was_never_tried_was_not_seen() -> None:
    findings = Findings()
    assert {finding.verdict for finding in findings.of.values()} == {Verdict.NOT_SEEN}
    assert lines(findings)[-1] == "no assumption failed that costs data"


def test_only_assumptions_that_data_depends_on_cost_data() -> None:
    findings = Findings()
    for name in ASSUMPTIONS:
        findings.note(name, holds=False, evidence="seen")
    costly = [name for name, row in ASSUMPTIONS.items() if row.costs_data]
    assert findings.costs_data == costly
    assert lines(findings)[-1] == f"data would be lost: {', '.join(costly)}"


def test_a_name_that_is_no_assumption_is_an_error() -> None:
    with pytest.raises(KeyError):
        Findings().note("weather", holds=True, evidence="sunny")
