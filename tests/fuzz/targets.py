"""Everything that reads what comes from outside, each behind one function of bytes.

A target returns, or raises one of the errors that it promises; whatever else it raises is a fault.
"""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote_to_bytes

from aiohttp import ClientError
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError

from sidecar.access.conditions import read_conditions
from sidecar.access.paths import read_target
from sidecar.api.body import _parse_fields
from sidecar.api.tokens import parse_spec
from sidecar.authn.authenticators.introspection import Introspection
from sidecar.authn.base import Accepted
from sidecar.authn.support.password_file import PasswordFileError, read_htpasswd, read_user_props
from sidecar.concurrency import settled
from sidecar.config.load import load
from sidecar.config.products.spring import Expander
from sidecar.config.providers import Provider
from sidecar.config.reading.placeholders import PlaceholderError
from sidecar.dataplane.dialects import Dialect, Envoy, ForwardAuth, Nginx
from sidecar.dataplane.identity_headers import IdentityHeaders, normal_name
from sidecar.dataplane.proxy.exchange import Exchange
from sidecar.dataplane.proxy.hop_headers import RequestHeaders, ResponseHeaders
from sidecar.dataplane.proxy.pool import UpstreamConnection
from sidecar.errors import Misconfigured, Refused, Unavailable, UpstreamFailed
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claims import make_actor
from sidecar.identity.client_certificate import certificate_thumbprint
from sidecar.keys.discovery import parse_metadata
from sidecar.keys.document import DocumentError, parse_object
from sidecar.keys.keyset import parse_key_set
from sidecar.metrics import Metrics
from sidecar.outbound import Answer, OutboundError
from sidecar.secrets.value import Secret
from sidecar.store.redis import codec as wire
from sidecar.store.replica.revocation_list import RevocationList
from sidecar.tokens.datahub import SharedKey, verify_datahub
from sidecar.tokens.jwt.compact import parse, strict_json
from sidecar.tokens.jwt.verify import ValidationPolicy, verify
from sidecar.web.request import check_framing
from tests.support import forge
from tests.support.members import POLICY, asked, options_of, surroundings

MOST = 16_384
DIALECTS: tuple[Dialect, ...] = (Nginx(), ForwardAuth(), Envoy())
PROVIDER = Provider("corp", "https://idp.example.com", audiences=frozenset({"meta"}), algorithms=frozenset({"RS256"}))
EXPECTATIONS = ValidationPolicy(
    issuers=frozenset({forge.ISSUER}), algorithms=frozenset({"RS256"}), audiences=frozenset({"meta"}), leeway=30.0
)
KEYS = (forge.public(forge.RSA, "RS256"),)
SHARED = b"0123456789abcdef0123456789abcdef"
ENVIRONMENT = {"A": "a", "LIST": "[a, b]", "EMPTY": "", "ODD": "&x {y: *x}", "NESTED": "${A}", "SELF": "${SELF}"}


@dataclass(frozen=True, slots=True)
class Target:
    """``call`` reads bytes; ``raises`` is what it may raise. ``is_json``: its corpus is changed as JSON, too."""

    call: Callable[[bytes], object]
    raises: tuple[type[Exception], ...]
    is_json: bool = False


@cache
def loop() -> asyncio.AbstractEventLoop:
    """One for all targets that need one."""
    return asyncio.new_event_loop()


@cache
def identity_headers() -> IdentityHeaders:
    return IdentityHeaders(
        strip=("X-Own",), max_bytes=4096, max_total_bytes=9216, assertion=None, credential=None, metrics=Metrics()
    )


def request_head(raw: bytes) -> None:
    """From the socket's bytes to what is asked by whom, and to the lines that are forwarded."""
    parser = HttpRequestParser(
        BaseProtocol(loop()), loop(), 2**16, max_line_size=MOST, max_field_size=MOST, max_headers=128
    )
    headers = RequestHeaders(is_identity=identity_headers().is_stripped, keep_authorization=True)
    for message, _ in parser.feed_data(raw)[0]:
        check_framing(message, message.path)
        for trusted in (False, True):
            lines = headers.select(message.raw_headers, trusted=trusted, may_impersonate=False)
            for line in lines:
                assert line.endswith(b"\r\n"), line
                assert not {10, 13, 0} & set(line[:-2]), line
                name = normal_name(line.partition(b":")[0].decode("latin-1"))
                assert not identity_headers().is_stripped(name), line
                assert name not in ("connection", "transfer-encoding", "content-length", "upgrade"), line
            for dialect in DIALECTS:
                rest = message.path if isinstance(dialect, Envoy) else ""
                view = dialect.context(message, rest, trusted=trusted, must_know_target=False)
                for kind in ("envoy", "nginx"):
                    certificate_thumbprint(view, kind)
                if view.target is not None:
                    read_target(view.target)


def forwarded_target(raw: bytes) -> None:
    """The path that a trusted proxy names: no reading of it climbs, whatever an upstream undoes."""
    readings = read_target(raw.decode("latin-1"))
    for reading in (readings.strict, *readings.others):
        assert reading.startswith("/"), reading
        assert not {".", ".."} & set(reading.split("/")), reading
        assert b"\0" not in unquote_to_bytes(reading), reading


def conditions(raw: bytes) -> None:
    """The query of a check: what is read of it keeps out who has nothing."""
    query = raw.decode("latin-1")
    read = read_conditions(query)
    assert bool(read) is bool(query)
    assert all(condition.missing(Actor(ActorType.USER, "sam")) for condition in read)


def compact_token(raw: bytes) -> None:
    """There is no signature: none is accepted."""
    verify(parse(raw.decode("latin-1"), MOST), KEYS, EXPECTATIONS, forge.NOW)
    raise AssertionError("accepted without a signature")


def signed_claims(raw: bytes) -> None:
    """Signed as they should be, and full of whatever an issuer may put there: to the Actor and its headers."""
    verified = verify(parse(forge.token(raw), 10 * MOST), KEYS, EXPECTATIONS, forge.NOW)
    actor = make_actor(verified.claims, POLICY)
    block = identity_headers().forward_block(Accepted(actor, KEYS[0]))
    assert all(byte in b"\r\n" or 0x20 <= byte < 0x7F for byte in block), block
    assert block.count(b"\n") == len(block.splitlines()), block


def signed_header(raw: bytes) -> None:
    """A header of the sender's choice over good claims, signed."""
    verify(parse(forge.token(None, raw), 10 * MOST), KEYS, EXPECTATIONS, forge.NOW)


def datahub_claims(raw: bytes) -> None:
    """The same for DataHub's shared secret."""
    signing_input = ".".join((forge.b64(b'{"alg":"HS256"}'), forge.b64(raw)))
    token = f"{signing_input}.{forge.hs256(signing_input, SHARED)}"
    verify_datahub(parse(token, 10 * MOST), SharedKey(Secret(SHARED.decode())), forge.NOW)


def key_set(raw: bytes) -> None:
    """A provider's keys: no private and no weak one is ever usable."""
    for key in parse_key_set(raw).keys:
        assert not key.key.is_private
        assert key.algorithms


def discovery_document(raw: bytes) -> None:
    """What an issuer says of itself."""
    assert parse_metadata(parse_object(raw), PROVIDER).issuer == PROVIDER.issuer


class _Says:
    """A client for control traffic whose every answer has this body."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def post(self, *_: object, **__: object) -> Answer:
        return Answer(self.body, "", None, not_modified=False)


def introspection_answer(raw: bytes) -> None:
    """A token is accepted only if the response has it as active."""
    around = surroundings(client=_Says(raw), providers={"corp": PROVIDER}, policies={"corp": POLICY})
    options = options_of(
        Introspection, {"provider": "corp", "url": "https://idp.example.com/i", "clientId": "c", "clientSecret": "s"}
    )
    member = Introspection(options, around)
    outcome = loop().run_until_complete(settled(member.authenticate(asked("Bearer opaque"))))
    if hasattr(outcome, "actor"):
        assert json.loads(raw)["active"] is True


def configuration(raw: bytes) -> None:
    """A whole file: placeholders, YAML, both products' dialects, all rules."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "sidecar.yaml")
        file.write_bytes(raw)
        load([str(file)], ENVIRONMENT)


def spring_placeholders(raw: bytes) -> None:
    Expander(ENVIRONMENT).expand(raw.decode("latin-1"))


def redis_entry(raw: bytes) -> None:
    """What lies in Redis, read as each of the things that it could be, and taken over where it is understood."""
    wire.read_record("id", raw, None, None)
    wire.read_record("id", b"0" * wire.STAMP + raw, raw, raw)
    entries, _, _ = wire.read_changes(raw)
    known = RevocationList()
    for entry in (*entries, wire.read_entry("id", raw), wire.read_entry("id", b"0" * wire.STAMP + raw)):
        if entry is not None:
            known.add(entry)


def redis_page(raw: bytes) -> None:
    """Lists of Redis's own making."""
    wire.read_ids(raw)
    wire.read_page(raw)


def answer_head(raw: bytes) -> None:
    """What an upstream may answer: only what is framed beyond doubt, and no line that could be two."""
    loop().run_until_complete(_exchange(raw))


async def _exchange(raw: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        running = asyncio.get_running_loop()
        _, connection = await running.create_connection(lambda: UpstreamConnection(running), sock=ours)
        try:
            theirs.sendall(raw)
            theirs.shutdown(socket.SHUT_WR)
            answer = await Exchange(connection, response_timeout=5.0).run(
                b"GET / HTTP/1.1\r\n\r\n", None, is_head=False
            )
            block = ResponseHeaders().select(answer.message.raw_headers)
            assert block.count(b"\r") == block.count(b"\n") == block.count(b"\r\n"), block
            names = [line.partition(b":")[0].lower() for line in block.split(b"\r\n") if line]
            assert not {b"transfer-encoding", b"content-length", b"connection", b"upgrade"} & set(names), block
            while await answer.payload.readany():
                pass
        finally:
            connection.terminate()


def form(raw: bytes) -> None:
    """A form's or query's fields: none of them twice."""
    _parse_fields(raw.decode("latin-1"), "not a form")


def wish(raw: bytes) -> None:
    """A call's JSON body."""
    parse_spec(strict_json(raw))


def password_file(raw: bytes) -> None:
    """An operator's file, in either form."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "users")
        file.write_bytes(raw)
        for read in (read_htpasswd, lambda path: read_user_props(path, allow_published=False)):
            try:
                read(file)
            except PasswordFileError:
                continue


TARGETS: Mapping[str, Target] = {
    "request_head": Target(request_head, (Refused, HttpProcessingError)),
    "forwarded_target": Target(forwarded_target, (Refused,)),
    "conditions": Target(conditions, (Refused,)),
    "compact_token": Target(compact_token, (Refused,)),
    "signed_claims": Target(signed_claims, (Refused,), is_json=True),
    "signed_header": Target(signed_header, (Refused,), is_json=True),
    "datahub_claims": Target(datahub_claims, (Refused,), is_json=True),
    "key_set": Target(key_set, (DocumentError,), is_json=True),
    "discovery_document": Target(discovery_document, (DocumentError, OutboundError), is_json=True),
    "introspection_answer": Target(introspection_answer, (Unavailable,), is_json=True),
    "configuration": Target(configuration, (Misconfigured,)),
    "spring_placeholders": Target(spring_placeholders, (PlaceholderError,)),
    "redis_entry": Target(redis_entry, (), is_json=True),
    "redis_page": Target(redis_page, (ValueError,), is_json=True),
    "answer_head": Target(answer_head, (UpstreamFailed, ValueError, ClientError, HttpProcessingError)),
    "form": Target(form, (Refused,)),
    "wish": Target(wish, (Refused, ValueError), is_json=True),
    "password_file": Target(password_file, ()),
}
