"""What refusals of subscribe requests mean."""

import pytest

from bridge.exchange.refusals import Meaning, blamed, login_ended, meaning, success


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


SAYS_SUCCESS = (
    *("success", "Success.", "Subscribe success", "login successful", "succeeded", "ok", "OK", "True"),
    *("操作成功", "no errors", "null", "None"),
)
SAYS_FAILURE = (
    *("unsuccessful", "not successful", "success: false", "false", "fail", "login failed", "invalid sign"),
    *("illegal signature", "wrong api key", "cannot login", "can't login", "unknown market", "timeout"),
    *("too many subscriptions", "busy", "denied", "NeedAuth", "require authentication", "bad sign"),
    *("authentication required", "操作失败", "market delisted"),
)
SAYS_NEITHER = (
    *("", "pong", "subscribed", "already subscribed", "authenticated", "market A", "limit 100", "pending"),
    *("notice", "0", "1"),
)


@pytest.mark.parametrize("text", SAYS_SUCCESS)
def test_a_text_may_say_success(text: str) -> None:
    assert success(text) is True


@pytest.mark.parametrize("text", SAYS_FAILURE)
def test_a_text_may_say_failure(text: str) -> None:
    assert success(text) is False


@pytest.mark.parametrize("text", SAYS_NEITHER)
def test_a_text_may_say_neither(text: str) -> None:
    assert success(text) is None


def test_only_the_beginning_of_an_endless_text_is_looked_at() -> None:
    assert success("auth" * 2_000_000 + " required") is None


LOGIN_ENDED = (
    *("NeedAuth (code 4)", "require authentication (code 6)", "AuthFail", "auth failed", "Unauthorized"),
    *("not authenticated", "session expired", "your session has expired", "login expired", "token expired"),
    *("API key was deleted", "invalid sign", "logged out", "log off", "not logged in", "please log in"),
    *("login again", "logged in elsewhere", "kicked by another login", "access denied", "code 4", "code 6"),
    *("user offline: replaced by new connection", "permission denied (code 7)", "authentication expired"),
)
IN_DOUBT = (
    *("busy", "market suspended", "assigned to node 7", "session established", "token listed", "code 3"),
    *("not authorized to subscribe to A", "permission denied for A", "design", "author", "code 5"),
    *("login successful", "service unavailable (code 3)", "method not found (code 4)", "invalid token FOO"),
    *("SubscribeFail (code 6)", "trading session closed"),
    *("logout", "re-login"),  # which are symbols
)


@pytest.mark.parametrize("text", LOGIN_ENDED)
def test_an_error_may_say_that_the_login_has_ended(text: str) -> None:
    assert login_ended(text, ["A", "LOGOUT", "re-login"])


@pytest.mark.parametrize("text", IN_DOUBT)
def test_an_error_in_other_words_does_not_certainly_say_so(text: str) -> None:
    assert not login_ended(text, ["A", "LOGOUT", "re-login"])
