"""What was found for and against each assumption; pure."""

import enum
from dataclasses import dataclass, field

from bridge.exchange.assumptions import ASSUMPTIONS
from bridge.exchange.words import Confidential


class Verdict(enum.StrEnum):
    """What was found of an assumption."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOT_SEEN = "not seen"


@dataclass(slots=True)
class Finding:
    """What was found of one assumption: how often it held and did not, and what shows it."""

    held: int = 0
    failed: int = 0
    evidence: str = ""  # of the first time that it did not hold, or else of the first time that it did

    @property
    def verdict(self) -> Verdict:
        """One case against it is enough."""
        if self.failed:
            return Verdict.DOES_NOT_HOLD
        return Verdict.HOLDS if self.held else Verdict.NOT_SEEN


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of one probe, by the name of the assumption; `confidential` is what they may not show."""

    confidential: Confidential = field(default_factory=Confidential)
    of: dict[str, Finding] = field(default_factory=lambda: {name: Finding() for name in ASSUMPTIONS})

    def note(self, name: str, holds: bool, evidence: str) -> None:
        """Add a case for or against an assumption, with what shows it, in the words of the exchange too.

        Raises:
            KeyError: there is no assumption of this name.
        """
        finding = self.of[name]
        if not (finding.failed or (holds and finding.held)):
            finding.evidence = self.confidential.words(evidence)
        if holds:
            finding.held += 1
        else:
            finding.failed += 1

    @property
    def costs_data(self) -> list[str]:
        """The assumptions that do not hold although data depends on them."""
        return [
            name
            for name, finding in self.of.items()
            if finding.verdict is Verdict.DOES_NOT_HOLD and ASSUMPTIONS[name].costs_data
        ]
