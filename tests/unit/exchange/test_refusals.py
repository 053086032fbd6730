"""What refusals of subscribe requests mean."""

import pytest

from bridge.exchange.refusals import Meaning, blamed, meaning


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("invalid market: NOPE_USDT (code 2)", Meaning.BAD_SYMBOL),
        ("invalid argument (code 1)", Meaning.BAD_SYMBOL),
        ("code 1", Meaning.BAD_SYMBOL),
        ("Unknown symbol", Meaning.BAD_SYMBOL),
        ("market not found (code 4)", Meaning.BAD_SYMBOL),
        ("ParamInvalid (code 2)", Meaning.BAD_SYMBOL),
        ("the pair does not exist", Meaning.BAD_SYMBOL),
        ("internal error (code 2)", Meaning.LATER),
        ("service unavailable (code 3)", Meaning.LATER),
        ("service timeout (code 5)", Meaning.LATER),
        ("request timed out", Meaning.LATER),
        ("method not found (code 4)", Meaning.LATER),
        ("require authentication (code 6)", Meaning.LATER),
        ("Too many requests for this market", Meaning.LATER),
        ("market data is under maintenance, try again later", Meaning.LATER),
        ("RepeatSubscribe (code 5)", Meaning.CONFIRMED),
        ("the market is already subscribed", Meaning.CONFIRMED),
        ("code 2", Meaning.UNKNOWN),
        ("code 5", Meaning.UNKNOWN),
        ("no", Meaning.UNKNOWN),
        ("", Meaning.UNKNOWN),
    ],
)
def test_words_come_before_the_code(error: str, expected: Meaning) -> None:
    assert meaning(error, ["NOPE_USDT"]) is expected


def test_the_name_of_a_symbol_says_nothing() -> None:
    assert meaning("no REPEAT_USDT and no later", ["REPEAT_USDT", "later"]) is Meaning.UNKNOWN
    assert meaning("A: invalid market (code 2)", ["A"]) is Meaning.BAD_SYMBOL


@pytest.mark.parametrize(
    ("error", "found"),
    [
        ("invalid market: C_USDT (code 2)", {"C_USDT"}),
        ("no such markets: b_usdt,C_USDT", {"B_USDT", "C_USDT"}),
        ("invalid market: XC_USDT", set()),
        ("invalid market", set()),
        ("invalid params [A_USDT,B_USDT,C_USDT,D_USDT]", set()),
        ("invalid params [A_USDT,B_USDT,C_USDT,…", set()),
    ],
)
def test_an_error_blames_the_few_symbols_that_it_names(error: str, found: set[str]) -> None:
    assert blamed(error, ["A_USDT", "B_USDT", "C_USDT", "D_USDT"]) == found
