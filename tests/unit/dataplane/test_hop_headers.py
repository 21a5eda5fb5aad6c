"""Which header lines cross the proxy."""

import pytest

from sidecar.dataplane.proxy.hop_headers import RequestHeaders, ResponseHeaders


def never(name: str) -> bool:
    return False


def select(*headers: tuple[bytes, bytes], trusted: bool = False, may_impersonate: bool = False) -> list[bytes]:
    chosen = RequestHeaders(is_identity=never, keep_authorization=True)
    first = chosen.select(headers, trusted=trusted, may_impersonate=may_impersonate)
    assert chosen.select(headers, trusted=trusted, may_impersonate=may_impersonate) == first, "learning changes nothing"
    return first


def test_lines_are_kept_byte_for_byte_and_in_order() -> None:
    lines = select((b"B", b"1"), (b"a", b"\xff\t2"), (b"B", b""))
    assert lines == [b"B: 1\r\n", b"a: \xff\t2\r\n", b"B: \r\n"]


@pytest.mark.parametrize(
    "name",
    [
        b"Connection", b"KEEP-ALIVE", b"Keep_Alive", b"TE", b"Trailer", b"Transfer-Encoding", b"transfer.encoding",
        b"Upgrade", b"Proxy-Authorization", b"proxy_authorization", b"Content-Length", b"Content_Length", b"Expect",
        b"HTTP2-Settings", b"Forwarded", b"X-Forwarded-For", b"X_Forwarded_For", b"X-Request-Id",
        b"Transfer!Encoding", b"Content|Length", b"X^Forwarded^For", b"X-HTTP-Method-Override", b"x_http*method",
        b"X`Method`Override", b"SCRIPT_NAME", b"X-Original-URL",
    ],
)  # fmt: skip
@pytest.mark.parametrize("trusted", [True, False])
def test_what_is_between_two_neighbours_goes_no_further(name: bytes, trusted: bool) -> None:
    assert select((name, b"x"), trusted=trusted) == []


@pytest.mark.parametrize(
    "name",
    [
        b"X_Forwarded_Host", b"x.real.ip", b"X_Impersonate_User", b"X-Impersonate.User", b"X!Impersonate!User",
        b"X#Forwarded$Proto", b"X%Real&IP",
    ],
)  # fmt: skip
def test_aliases_never_pass(name: bytes) -> None:
    assert select((name, b"x"), trusted=True, may_impersonate=True) == []


def test_impersonation_passes_for_those_who_may() -> None:
    header = (b"X-Impersonate-User", b"ann")
    assert select(header, trusted=True) == []
    assert select(header, may_impersonate=True) == [b"X-Impersonate-User: ann\r\n"]


def test_nominated_names_go_but_never_host() -> None:
    headers = [(b"Host", b"h"), (b"X-A", b"1"), (b"x-a", b"2"), (b"X-B", b"3")]
    lines = select(*headers, (b"Connection", b"X-a ,Host, close"), (b"CONNECTION", b"upgrade"))
    assert lines == [b"Host: h\r\n", b"X-B: 3\r\n"]


def test_authorization_can_be_kept_from_the_service() -> None:
    chosen = RequestHeaders(is_identity=never, keep_authorization=False)
    headers = [(b"authorization", b"Bearer x"), (b"Cookie", b"a=1")]
    assert chosen.select(headers, trusted=True, may_impersonate=True) == [b"Cookie: a=1\r\n"]


def test_a_sound_trace_context_passes_and_no_other() -> None:
    sound = (b"TraceParent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    state = (b"tracestate", b"a=1")
    passed = [b"traceparent: %b\r\n" % sound[1], b"tracestate: a=1\r\n"]
    assert select(state, (b"A", b"1"), sound) == [b"A: 1\r\n", *passed]
    assert select(sound, (b"tracestate", b"a=1,="), state) == passed[:1]
    assert select(sound, sound, state) == select((b"traceparent", b"00-x"), state) == select(state) == []
    assert select(sound, state, (b"Connection", b"traceparent")) == passed[1:]


def test_a_trace_context_that_others_make_is_not_passed() -> None:
    chosen = RequestHeaders(is_identity=never, keep_authorization=True, keep_trace=False)
    headers = [(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), (b"tracestate", b"a=1")]
    assert chosen.select(headers, trusted=True, may_impersonate=True) == []


def test_names_that_callers_choose_do_not_fill_memory() -> None:
    chosen = RequestHeaders(is_identity=never, keep_authorization=True)
    for number in range(5000):
        chosen.select([(b"X-%d" % number, b"1")], trusted=False, may_impersonate=False)
        chosen.select([(b"x" * (100 + number), b"1")], trusted=False, may_impersonate=False)
    assert len(chosen._fates) <= 1024
    assert max(map(len, chosen._fates)) <= 64


def test_answers_keep_everything_else() -> None:
    headers = [(b"Set-Cookie", b"a"), (b"set-cookie", b"b\t"), (b"Content-Length", b"1"), (b"X", b"\xff")]
    assert ResponseHeaders().select(headers) == b"Set-Cookie: a\r\nset-cookie: b\t\r\nX: \xff\r\n"
    assert ResponseHeaders().select([(b"Connection", b"X"), (b"x", b"1"), (b"Y", b"2")]) == b"Y: 2\r\n"


@pytest.mark.parametrize("code", [code for code in (*range(0x20), 0x7F) if code != 0x09])
def test_responses_with_control_characters_are_refused(code: int) -> None:
    with pytest.raises(ValueError, match="control"):
        ResponseHeaders().select([(b"X", b"a%cb" % code)])


def test_answers_frame_themselves_under_no_other_name() -> None:
    headers = [(b"Transfer_Encoding", b"chunked"), (b"Content!Length", b"1"), (b"X_Request.Id", b"1"), (b"X_A", b"1")]
    assert ResponseHeaders().select(headers) == b"X_A: 1\r\n"


def test_answers_in_another_coding_are_refused() -> None:
    assert ResponseHeaders().select([(b"Transfer-Encoding", b"Chunked")]) == b""
    with pytest.raises(ValueError, match="coding"):
        ResponseHeaders().select([(b"transfer-encoding", b"gzip, chunked")])
