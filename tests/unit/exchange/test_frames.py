"""Frames: which inflate, which are pushes or answers, and the reason why others are neither."""

import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadFrame
from bridge.exchange.frames import Answer, Messages, Push, inflate, within
from bridge.exchange.words import MOST_WORDS, Confidential
from bridge.records import DEAD_LETTER_REASONS

LIMIT = 1 << 20
ZLIB, RAW = zlib.MAX_WBITS, -zlib.MAX_WBITS

PONG = b'{"error":null,"result":"pong","id":12312}'


def deflate(text: bytes, wbits: int = ZLIB, level: int = -1) -> bytes:
    stream = zlib.compressobj(level, wbits=wbits)
    return stream.compress(text) + stream.flush()


def bomb(megabytes: int, wbits: int) -> bytes:
    """Return a whole stream of this many MiB of zeros, compressing only one of them."""
    stream = zlib.compressobj(9, wbits=RAW)
    block = stream.compress(bytes(1 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)
    body = block * megabytes + stream.flush()
    if wbits == RAW:
        return body
    adler32 = (((megabytes << 20) % 65521) << 16) + 1
    return b"\x78\xda" + body + adler32.to_bytes(4, "big")


def refusal(frame: bytes, limit: int = LIMIT) -> BadFrame:
    with pytest.raises(BadFrame) as caught:
        inflate(frame, limit)
    assert caught.value.reason == "decompression"
    return caught.value


def pushed(text: bytes) -> tuple[str, bytes]:
    message = Messages().decode(text)
    assert isinstance(message, Push)
    return message.channel, bytes(message.params)


def answered(text: bytes) -> tuple[int | None, bytes, str | None]:
    message = Messages().decode(text)
    assert isinstance(message, Answer)
    return message.id, bytes(message.result), message.error


def outcome(frame: bytes) -> str:
    """Return the message in a frame, or why it is none."""
    try:
        return type(Messages().decode(inflate(frame, LIMIT))).__name__
    except BadFrame as bad:
        return bad.reason


def error_of(error: bytes) -> str | None:
    return answered(b'{"error":%s,"result":null,"id":1}' % error)[2]


# Inflating


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("wbits", [ZLIB, RAW])
def test_zlib_and_raw_deflate_of_every_level_inflate(wbits: int, level: int) -> None:
    assert inflate(deflate(PONG, wbits, level), LIMIT) == PONG


def test_plain_json_in_a_binary_frame_is_returned_unchanged() -> None:
    assert inflate(PONG, LIMIT) == PONG


def test_a_text_frame_is_returned_unchanged() -> None:
    assert within(PONG, LIMIT) == PONG


@given(st.binary(max_size=300), st.sampled_from([ZLIB, RAW]), st.integers(0, 9))
def test_a_stream_may_inflate_to_the_limit_but_not_beyond(text: bytes, wbits: int, level: int) -> None:
    # Raw deflate of a text that is not ASCII, and so not JSON, may begin as plain JSON does.
    text = b'{"' + text
    frame = deflate(text, wbits, level)
    assert inflate(frame, len(text)) == text
    assert "larger than max_frame_bytes" in refusal(frame, len(text) - 1).detail


def test_a_stream_with_output_left_after_its_last_input_byte_is_too_large() -> None:
    assert "larger than max_frame_bytes = 999" in refusal(deflate(b"a" * 1000, RAW, 1), 999).detail


def test_plain_json_and_text_may_be_as_long_as_the_limit_but_not_longer() -> None:
    assert inflate(PONG, len(PONG)) == within(PONG, len(PONG)) == PONG
    assert "larger than max_frame_bytes = 40" in refusal(PONG, len(PONG) - 1).detail
    with pytest.raises(BadFrame, match="larger than max_frame_bytes = 40"):
        within(PONG, len(PONG) - 1)


@pytest.mark.parametrize("wbits", [ZLIB, RAW])
def test_a_gigabyte_bomb_takes_memory_of_a_few_times_the_limit(wbits: int) -> None:
    small = bomb(8, wbits)
    assert zlib.decompress(small, wbits) == bytes(8 << 20)

    frame = bomb(1024, wbits)
    tracemalloc.start()
    try:
        detail = refusal(frame).detail
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert detail == f"larger than max_frame_bytes = {LIMIT}"
    # zlib holds the output twice, as it joins its buffers, and copies the input that is left.
    assert peak < 2 * LIMIT + 2 * len(frame) + 200_000


@pytest.mark.parametrize("wbits", [ZLIB, RAW])
def test_a_stream_cut_anywhere_is_a_bad_frame(wbits: int) -> None:
    frame = deflate(PONG, wbits)
    for length in range(1, len(frame)):
        assert "incomplete" in refusal(frame[:length]).detail or length < 2


@pytest.mark.parametrize("wbits", [ZLIB, RAW])
def test_bytes_after_the_stream_make_a_bad_frame(wbits: int) -> None:
    frame = deflate(PONG, wbits)
    assert refusal(frame + b"\0").detail == "1 bytes after the end of the stream"
    assert refusal(frame + frame).detail == f"{len(frame)} bytes after the end of the stream"


def test_a_wrong_checksum_makes_a_bad_frame() -> None:
    frame = deflate(PONG)
    for place in range(len(frame) - 4, len(frame)):
        damaged = bytearray(frame)
        damaged[place] ^= 1
        assert "Incorrect checksum" in refusal(bytes(damaged)).detail


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\n" + PONG, id="plain JSON that does not begin with a brace"),
        pytest.param(b"[1]", id="a plain list"),
        pytest.param(zlib.compressobj(wbits=31).flush()[:9], id="the begin of a gzip stream"),
        pytest.param(deflate(PONG)[2:], id="a stream without its header but with its checksum"),
        pytest.param(zlib.compressobj(zdict=b"BTC_USDT").flush(), id="a stream with a preset dictionary"),
    ],
)
def test_bytes_that_are_no_stream_are_a_bad_frame(frame: bytes) -> None:
    refusal(frame)


def test_gzip_is_read() -> None:
    stream = zlib.compressobj(wbits=31)
    assert inflate(stream.compress(PONG) + stream.flush(), len(PONG)) == PONG


@given(st.text(st.characters(max_codepoint=127), min_size=1), st.integers(0, 9))
def test_raw_deflate_of_ascii_never_starts_like_plain_json(text: str, level: int) -> None:
    assert deflate(text.encode(), RAW, level)[:1] != b"{"


# Pushes


@pytest.mark.parametrize("end", [b',"id":null', b"", b',"id":7', b',"sendTime":1586762545336,"new":[{}]'])
def test_a_method_that_ends_in_update_is_a_push_whatever_other_fields_there_are(end: bytes) -> None:
    text = b'{"method":"depth.update","params":[true,{},"X"]%s}' % end
    assert pushed(text) == ("depth", b'[true,{},"X"]')


@pytest.mark.parametrize(
    ("method", "channel"), [("all_ticker.update", "all_ticker"), (".update", ""), ("a.b.update", "a.b")]
)
def test_the_channel_is_the_part_of_the_method_before_update(method: str, channel: str) -> None:
    assert pushed(b'{"method":"%s","params":[]}' % method.encode()) == (channel, b"[]")


@pytest.mark.parametrize("params", [b"[]", b"{}", b"null", b'""', b"1E400", b"[[[]]]", b'["\xff"]'])
def test_the_params_of_a_push_are_kept_unparsed(params: bytes) -> None:
    assert pushed(b'{"params":%s,"method":"ticker.update"}' % params) == ("ticker", params)


def test_a_push_may_lack_its_params() -> None:
    assert pushed(b'{"method":"ticker.update"}') == ("ticker", b"null")


def test_fields_beside_the_params_are_reported_with_the_first_push_of_each_channel() -> None:
    messages = Messages()
    frame = '{"method":"%s.update","sendTime":1586762545336,"params":[],"id":null}'

    def added(channel: str) -> list[str]:
        message = messages.decode((frame % channel).encode())
        assert isinstance(message, Push)
        return list(message.added)

    assert [added("depth"), added("depth"), added("trades"), added("depth"), added("trades")] == [
        ["sendTime"],
        ["sendTime"],  # the pipeline reports each once
        ["sendTime"],
        [],
        [],
    ]


def test_fields_of_an_answer_are_ignored() -> None:
    messages = Messages()
    assert isinstance(messages.decode(b'{"id":1,"ts":5,"result":"pong","error":null}'), Answer)
    push = messages.decode(b'{"method":"depth.update","params":[],"ts":5,"id":null}')
    assert isinstance(push, Push)
    assert list(push.added) == ["ts"]


def test_methods_without_end_are_not_remembered() -> None:
    messages = Messages()
    for number in range(1000):
        messages.decode(b'{"method":"x%d.update","n%d":1,"params":[]}' % (number, number))
    assert len(messages._channels) <= 64
    assert len(messages._settled) <= 64


# Answers


def test_the_answers_of_the_api_document() -> None:
    assert answered(PONG) == (12312, b'"pong"', None)
    assert answered(b'{"error": null, "result": 1523348055, "id": 12312}') == (12312, b"1523348055", None)
    success = b'{"error": null, "result": {"status": "success"}, "id": 12312}'
    assert answered(success) == (12312, b'{"status": "success"}', None)


def test_an_answer_needs_only_its_id() -> None:
    assert answered(b'{"id":0}') == (0, b"null", None)
    assert answered(b'{"id":-1}') == (-1, b"null", None)


@pytest.mark.parametrize(
    "text",
    [
        b'{"error":null,"result":"pong","id":"12312"}',
        b'{"error":null,"result":"pong","id":12312.0}',
        b'{"method":"server.ping","error":null,"result":"pong","id":12312}',
        b'{"method":"","result":"pong","id":12312}',
        b'{"id":12312,"method":"server.ping","params":[],"result":"pong"}',
        b'{"id":12312,"code":0,"msg":"pong","result":"pong"}',
    ],
)
def test_an_answer_may_have_its_id_in_another_type_and_repeat_its_request(text: bytes) -> None:
    assert answered(text) == (12312, b'"pong"', None)


@pytest.mark.parametrize("end", [b"", b',"params":[]', b',"params":[],"ts":1'])
def test_a_request_of_the_exchange_is_not_taken_for_an_answer(end: bytes) -> None:
    with pytest.raises(BadFrame, match=r"server\.ping"):
        Messages().decode(b'{"id":1,"method":"server.ping"%s}' % end)


def test_an_error_may_answer_no_request() -> None:
    for end in (b"", b',"id":null', b',"id":"x"'):
        text = b'{"error":{"code":4,"message":"NeedAuth"},"result":null%s}' % end
        assert answered(text) == (None, b"null", "NeedAuth (code 4)")


@pytest.mark.parametrize("request_id", [b'""', b'"6f1c-55"', b"5.5", b"true", b"{}", b"[1]", b"1" * 5000])
def test_the_id_of_a_push_may_be_anything(request_id: bytes) -> None:
    text = b'{"method":"depth.update","params":[],"id":%s,"result":null,"error":null}' % request_id
    assert pushed(text) == ("depth", b"[]")


@pytest.mark.parametrize(
    "end",
    [
        b'"error":null,"result":{"status":"fail"}',
        b'"error":null,"result":{"status":"Failure","market":"X"}',
        b'"error":null,"result":{"status":false}',
        b'"error":{},"result":{"status":"error"},"code":0',
        b'"result":false',
        b'"result":"invalid sign"',
        b'"code":3,"message":"auth failed"',
        b'"code":"10008","msg":""',
        b'"result":null,"error":null,"message":"auth failed"',
        b'"method":"server.auth","code":10001,"msg":"invalid sign"',
        b'"success":false',
        b'"success":false,"result":{"status":"success"}',
        b'"status":"error"',
        b'"code":10001,"message":{"en":"invalid sign"}',
        b'"code":"E1"',
        b'"result":{"code":10002,"msg":"invalid sign"}',
        b'"result":{"success":false}',
        b'"result":{"error":"bad sign"}',
        b'"result":{"error":{"code":3}}',
        b'"result":{"status":"illegal"}',
        b'"result":"false"',
        b'"result":"timeout"',
        b'"result":"unknown market"',
        b'"result":"too many subscriptions"',
        b'"code":0,"error":"bad sign"',
    ],
)
def test_a_refusal_may_be_said_without_an_error(end: bytes) -> None:
    assert answered(b'{"id":1,%s}' % end)[2]


@pytest.mark.parametrize(
    "result",
    [
        b"[false]",
        b'{"status":0}',
        b'"already subscribed"',
        b"{}",
        b"null",
        b"true",
        b"0",
        b'"ok"',
        b'{"status":"ok"}',
        b'{"status":null}',
        b"[]",
        b'{"status":1}',
    ],
)
def test_a_result_in_other_words_is_no_refusal(result: bytes) -> None:
    assert answered(b'{"error":null,"result":%s,"id":1}' % result)[2] is None


@pytest.mark.parametrize(
    "error",
    [
        *(b"null", b"0", b"0.0", b'""', b"false", b"{}", b"[]", b'"0"', b'"OK"', b'"success"', b'"null"'),
        b'{"code":0}',
        b'{"code":0,"message":""}',
        b'{"code":"0","msg":"succeeded"}',
        b'{"code":1,"message":"success"}',
        b'{"code":0,"message":"no error"}',
        b'{"code":0,"message":"market not found"}',
        b"200",
        b'"200"',
        b'"false"',
        b'"no error"',
        b'{"message":"success"}',
        b'{"code":200}',
        b'{"code":null,"message":null}',
    ],
)
def test_an_empty_error_and_one_that_says_success_is_no_error(error: bytes) -> None:
    assert error_of(error) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (b'{"code":6,"message":"require authentication"}', "require authentication (code 6)"),
        (b'{"code":"6","message":"no"}', "no (code 6)"),
        (b'{"code":6}', "code 6"),
        (b'{"code":6,"message":null}', "code 6"),
        (b'{"code":6,"message":""}', "code 6"),
        (b'{"message":"no"}', "no"),
        (b'{"msg":"no"}', "no"),
        (b'{"code":5,"msg":"repeat subscribe"}', "repeat subscribe (code 5)"),
        (b'{"code":6,"message":"None"}', "None (code 6)"),
        (b'{"code":6,"message":"null"}', "null (code 6)"),
        (b'{"code":6,"message":"success"}', "success (code 6)"),
        (b'"10008"', "code 10008"),
        (b'{"message":"market A"}', "market A"),
        (b'{"why":"no"}', '{"why":"no"}'),
        (b'{"code":6.5}', "code 6.5"),
        (b'"no"', "no"),
        (b"10008", "code 10008"),
        (b"-1", "code -1"),
        (b"true", "true"),
        (b"[1]", "[1]"),
        (b"1e400", "1e400"),
        (b'"\xff"', '"\ufffd"'),
        pytest.param(
            b"1" * 5000, "code " + "1" * MOST_WORDS + "… (5000 characters)", id="a number of 5000 digits"
        ),
    ],
)
def test_an_error_of_any_shape_has_a_text(error: bytes, words: str) -> None:
    assert error_of(error) == words


@pytest.mark.parametrize(
    ("end", "accepted"),
    [
        (b'"code":0,"msg":"pong"', True),
        (b'"code":0,"message":"login successful"', True),
        (b'"code":200,"msg":"Subscribe success"', True),
        (b'"code":"200","msg":"anything: fail"', True),
        (b'"code":"00000"', True),
        (b'"code":1,"message":"Success."', True),
        (b'"code":0,"msg":"\xe6\x93\x8d\xe4\xbd\x9c\xe6\x88\x90\xe5\x8a\x9f"', True),
        (b'"success":true', True),
        (b'"status":"ok"', True),
        (b'"result":{"code":0,"status":0}', True),
        (b'"error":{"code":0},"result":null', True),
        (b'"message":"subscribed"', False),
        (b'"error":null,"result":null', False),
        (b'"error":false,"result":1523348055', False),
        (b'"code":null,"message":""', False),
    ],
)
def test_an_answer_without_a_refusal_says_success_or_nothing(end: bytes, accepted: bool) -> None:
    message = Messages().decode(b'{"id":1,%s}' % end)
    assert isinstance(message, Answer)
    assert (message.error, message.accepted) == (None, accepted)


@pytest.mark.parametrize(
    "text",
    [
        b'{"message":"auth failed"}',
        b'{"status":"error"}',
        b'{"success":false}',
        b'{"error":false,"message":"auth failed"}',
        b'{"code":0,"result":"auth failed"}',
        b'{"code":"","message":"auth failed"}',
    ],
)
def test_what_answers_no_request_is_an_error_only_with_an_error_or_a_code(text: bytes) -> None:
    with pytest.raises(BadFrame, match="unknown_method"):
        Messages().decode(text)


# What is neither


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"method":"depth.u', "json"),
        (b'\n{"id":1', "json"),
        (b"{", "json"),
        (b'{"id":"7e2"}', "unknown_method"),
        (b'{"id":"7.0"}', "unknown_method"),
        (b"nonsense, and a long one", "json"),
        (b'{"id":1}{"id":2}{"id":3}', "json"),
        (b'{"id":NaN,"result":null}', "json"),
        (b"\xef\xbb\xbf" + PONG, "json"),
        (b'{"method":"\xff.update"}', "json"),
        (b'{"method":"\\ud800.update"}', "json"),
        (b'{"method":"x.update","params":[1}', "json"),
        (b'["ping","pong","ping"]', "payload"),
        (b'"a long text is none"', "payload"),
        (b'{"method":1,"params":[]}', "payload"),
        (b'{"id":"x"}', "unknown_method"),
        (b'{"id":1.5}', "unknown_method"),
        (b'{"id":true}', "unknown_method"),
        (b"{}", "unknown_method"),
        (b'{"id":null}', "unknown_method"),
        (b'{"result":"pong"}', "unknown_method"),
        (b'{"method":"server.ping","params":[],"id":1}', "unknown_method"),
        (b'{"method":"update"}', "unknown_method"),
        (b'{"method":"trades.UPDATE"}', "unknown_method"),
        (b'{"method":""}', "unknown_method"),
        pytest.param(b'{"id":%s}' % (b"1" * 1_000_000), "unknown_method", id="an id of a million digits"),
    ],
)
def test_a_text_that_is_neither_push_nor_answer_has_a_reason(text: bytes, reason: str) -> None:
    with pytest.raises(BadFrame) as caught:
        Messages().decode(text)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "text", [b"", b"ping", b": keep-alive", b"null", b"1", b'"pong"', b"[]", b"{}", b" \n"]
)
def test_what_is_too_short_for_a_push_holds_none(text: bytes) -> None:
    """Keep-alives of other exchanges: nothing is lost with them, whatever they are."""
    shortest = b'{"method":".update"}'
    assert pushed(shortest) == ("", b"null")
    for frame in (deflate(text), text) if not text else (deflate(text),):
        with pytest.raises(BadFrame) as caught:
            Messages().decode(inflate(frame, LIMIT))
        assert caught.value.reason == "unknown_method"
    assert len(text) < len(shortest)


@pytest.mark.parametrize("form", [b"%s", b'{"method":"x.update","params":%s}', b'{"id":1,"error":%s}'])
def test_a_hundred_thousand_brackets_are_a_bad_frame(form: bytes) -> None:
    with pytest.raises(BadFrame) as caught:
        Messages().decode(form % (b"[" * 100_000 + b"1" + b"]" * 100_000))
    assert caught.value.reason == ("json" if form.startswith(b"{") else "payload")


def test_nesting_as_deep_as_the_parser_allows_is_an_answer_or_bad_json() -> None:
    for depth in range(800, 1000):
        text = b'{"id":1,"error":%s}' % (b"[" * depth + b"]" * depth)
        assert outcome(text) in {"Answer", "json"}


@pytest.mark.parametrize("name", ["error", "result", "status", "success", "code", "message"])
@pytest.mark.parametrize("outer", [b'{"id":1,"error":%s}', b'{"id":1,"result":%s}', b'{"id":1,"code":%s}'])
def test_answers_nested_in_each_other_are_answers_or_bad_json(outer: bytes, name: str) -> None:
    for depth in range(1, 1000, 9):
        text = outer % ((b'{"%s":' % name.encode()) * depth + b"5" + b"}" * depth)
        assert outcome(text) in {"Answer", "json"}


def test_a_detail_quotes_only_the_beginning_of_a_method() -> None:
    with pytest.raises(BadFrame) as caught:
        Messages().decode(b'{"method":"%s"}' % (b"x" * 1_000_000))
    assert len(caught.value.detail) < 200


# Laws

frames = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(deflate),
    st.binary(max_size=200).map(lambda text: deflate(text, RAW)),
    st.builds(
        lambda method, params, request_id, error: deflate(
            b'{"method":%s,"params":%s,"id":%s,"error":%s}' % (method, params, request_id, error)
        ),
        *[st.sampled_from([b"null", b'"x.update"', b'"\xff"', b"1", b"[", b"{}", b'{"code":1}', b"1e999"])]
        * 4,
    ),
)


@given(frames)
def test_any_bytes_are_a_push_an_answer_or_a_reason(frame: bytes) -> None:
    assert outcome(frame) in {"Push", "Answer", *DEAD_LETTER_REASONS}


texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
forms = st.sampled_from([deflate, lambda text: deflate(text, RAW), lambda text: text])


@given(texts, json_values, forms, st.booleans())
def test_encoding_and_decoding_a_push_gives_the_same_push(
    channel: str, params: Any, form: Any, ascii_only: bool
) -> None:
    message = {"method": f"{channel}.update", "params": params, "id": None}
    text = json.dumps(message, ensure_ascii=ascii_only).encode()
    decoded_channel, decoded_params = pushed(inflate(form(text), LIMIT))
    assert decoded_channel == channel
    assert json.loads(decoded_params) == params


@given(st.integers(-(2**63), 2**64 - 1), json_values, st.integers(), texts, forms)
def test_encoding_and_decoding_an_answer_gives_the_same_answer(
    request_id: int, result: Any, code: int, message: str, form: Any
) -> None:
    answer = {"error": {"code": code, "message": message}, "result": result, "id": request_id}
    decoded_id, decoded_result, error = answered(inflate(form(json.dumps(answer).encode()), LIMIT))
    assert (decoded_id, json.loads(decoded_result)) == (request_id, result)
    words = Confidential().words(message)
    if code not in (0, 1, 200):  # which may mean success
        assert error == (f"{words} (code {code})" if message else f"code {code}")


def test_a_frame_of_millions_of_tiny_items_is_not_parsed() -> None:
    text = b'{"method":"trades.update","params":[true,[' + b"{}," * 300_000 + b'{}],"BTC_USDT"],"id":null}'
    with pytest.raises(BadFrame, match="more than 250000 items"):
        Messages().decode(text)


def test_more_objects_than_all_markets_have_tickers_are_no_message() -> None:
    """Each may become a record, which takes several hundred bytes: one frame would take all memory."""
    for number in (25_000, 25_001):
        items = ",".join(['{"symbol":"BTC_USDT"}'] * (number - 1))  # the message itself is the other one
        text = f'{{"method":"ticker.update","params":[{items}],"id":null}}'.encode()
        if number > 25_000:
            with pytest.raises(BadFrame, match="more than 25000 objects"):
                Messages().decode(text)
        else:
            assert isinstance(Messages().decode(text), Push)


@given(
    st.dictionaries(
        st.sampled_from(["error", "result", "code", "success", "status", "message", "msg"]),
        json_values
        | st.dictionaries(st.sampled_from(["code", "error", "status", "message"]), json_values, max_size=4),
    )
)
def test_whatever_an_answer_says_it_is_refused_or_accepted_or_neither(fields: dict[str, Any]) -> None:
    message = Messages().decode(json.dumps({"id": 1, **fields}).encode())
    assert isinstance(message, Answer)
    assert not (message.error is not None and message.accepted)
