"""What was sealed opens unchanged, for its purpose and its place only."""

from sidecar.secrets.value import Secret
from sidecar.sessions.sealing import Sealer, decode_base64url, encode_base64url

OLD, NEW = Secret("o" * 32), Secret("n" * 32)


def test_sealed_text_opens_for_its_purpose_and_place_only() -> None:
    sealer = Sealer([OLD])
    text = sealer.seal("session", b"content", "s_1")
    opened = sealer.open("session", text, "s_1")
    assert opened is not None
    assert (opened.content, opened.secret) == (b"content", 0)
    assert sealer.open("state", text, "s_1") is None
    assert sealer.open("session", text, "s_2") is None
    assert sealer.seal("session", b"content", "s_1") != text


def test_every_secret_opens_and_the_first_one_seals() -> None:
    text = Sealer([OLD]).seal("state", b"x")
    opened = Sealer([NEW, OLD]).open("state", text)
    assert opened is not None
    assert opened.secret == 1
    assert Sealer([NEW]).open("state", text) is None
    assert Sealer([OLD]).open("state", Sealer([NEW, OLD]).seal("state", b"x")) is None


def test_any_changed_character_closes_it() -> None:
    sealer = Sealer([OLD])
    text = sealer.seal("state", b"x" * 8)
    for place in range(len(text)):
        other = "A" if text[place] != "A" else "B"
        assert sealer.open("state", text[:place] + other + text[place + 1 :]) is None


def test_only_one_spelling_decodes() -> None:
    assert decode_base64url(encode_base64url(b"abc")) == b"abc"
    for text in ("YWJj\n", "YWJj=", "YWI=", "YWJ", "é", "Y W", "YQ=="):
        assert decode_base64url(text) is None or encode_base64url(decode_base64url(text) or b"") == text
    assert decode_base64url("YR") is None  # spare bits
