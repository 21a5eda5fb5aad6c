"""Bytes near those of a corpus: cut, spliced and repeated, and JSON with odd values where others stood."""

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

WORDS = (
    b"\0", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x0b", b"\x7f", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b'"', b"'", b"\\", b"\\ud800", b"\\u0000", b"{", b"}", b"[", b"]", b",", b":", b";", b"=", b"&", b"#", b"?", b"%",
    b"null", b"true", b"1e400", b"-0", b"NaN", b"9" * 400, b"${", b"${A}", b"${A:-b}", b"$${", b"*a", b"&a ", b"!!map ",
    b"<<: ", b"---\n", b"/", b"//", b"..", b"/../", b"%2e", b"%2F", b"%5c", b"%00", b"%zz", b";x=1",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"0\r\n\r\n", b"Connection: X-Auth-Request-User\r\n",
    b"X_Auth.Request_User: root\r\n", b"Authorization: Bearer x\r\n", b"HTTP/1.0", b"HTTP/2.0", b"@", b"eyJ",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**63, 10**400, 1.5, -0.0, "", " ", "\0", "\ud800", "a\r\nb", "x" * 5000, "é@é", "a@b@c",
    [], {}, [[]], [None], {"": None}, ["a", "a"], float("nan"), float("inf"), "1e3", "HS256", "none", "https://[",
)  # fmt: skip


@st.composite
def near(draw: st.DrawFn, corpus: Sequence[bytes]) -> bytes:
    """Something of ``corpus`` with a few pieces of it replaced."""
    raw = draw(st.sampled_from(corpus))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.integers(start, min(len(raw), start + 40)))
        raw = raw[:start] + draw(_piece(raw[start:end], corpus)) + raw[end:]
    return raw


def _piece(old: bytes, corpus: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.sampled_from(WORDS),
        st.binary(max_size=8),
        st.integers(2, 200).map(lambda times: old * times),
        st.sampled_from(corpus).flatmap(lambda other: st.integers(0, len(other)).map(lambda start: other[start:])),
    )


@st.composite
def near_json(draw: st.DrawFn, corpus: Sequence[bytes]) -> bytes:
    """A document of ``corpus`` with some of its values replaced, dropped, nested or copied from elsewhere in it."""
    document = json.loads(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(("odd", "drop", "nest", "copy")))
        if change == "odd":
            holder[key] = deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif change == "drop":
            del holder[key]
        elif change == "nest":
            for _ in range(draw(st.sampled_from((1, 40, 300)))):
                holder[key] = [holder[key]]
        else:
            source, name = draw(st.sampled_from(places))
            holder[key] = deepcopy(source[name])
    return json.dumps(document).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)
