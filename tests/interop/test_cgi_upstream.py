"""A CGI program behind a real lighttpd as the upstream: the identity that it receives.

A CGI server makes one variable of all header names that differ in their marks alone (RFC 3875 section 4.1.18).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.http_client import answers, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.sidecar_process import running_sidecar

# Everything of a header name that is no letter or digit (RFC 9110 section 5.6.2).
MARKS = "!#$%&'*+-.^_`|~"
FORGED = (
    "X-Auth-Request-User", "X-Auth-Request-Groups", "X-Auth-Actor-Type", "Remote-User", "X-Forwarded-User",
    "X-Forwarded-Host", "X-HTTP-Method-Override", "X-Impersonate-User", "Content-Length", "Transfer-Encoding",
)  # fmt: skip


@contextmanager
def lighttpd(binary: Path, folder: Path) -> Iterator[str]:
    """lighttpd that answers every path with the environment of a CGI program, one variable a line."""
    port = free_port()
    script = folder / "environment.sh"
    script.write_text(r"printf 'Content-Type: text/plain\r\n\r\n'; exec env", encoding="utf-8")
    (folder / "lighttpd.conf").write_text(
        'server.modules = ("mod_alias", "mod_cgi")\n'
        f'server.document-root = "{folder}"\nserver.bind = "127.0.0.1"\nserver.port = {port}\n'
        f'alias.url = ("/" => "{script}")\ncgi.assign = (".sh" => "/bin/sh")\n',
        encoding="utf-8",
    )
    url = f"http://127.0.0.1:{port}"
    command = [binary, "-D", "-f", folder / "lighttpd.conf"]
    with running(command, log=folder / "lighttpd.log", ready=lambda: answers(url)):
        yield url


def variables(url: str, headers: list[tuple[str, str]]) -> dict[str, str]:
    """The environment of the program that answered."""
    reply = request(f"{url}/", headers=headers)
    assert reply.status == 200, reply.body
    lines = [line.partition("=") for line in reply.body.decode("latin-1").splitlines()]
    return {name: value for name, _, value in lines}


def test_no_spelling_of_a_name_makes_a_cgi_program_believe_a_caller(
    require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """Neither a caller without credentials on a public path, nor one with forged identity headers."""
    forged = [(name.replace("-", mark), "forged") for name in FORGED for mark in MARKS if mark != "-"]
    with IdentityProvider() as provider, lighttpd(require_tool("lighttpd"), tmp_path) as upstream:
        reached = variables(upstream, forged[:90])
        assert reached["HTTP_X_AUTH_REQUEST_USER"] == reached["HTTP_REMOTE_USER"] == "forged"
        configuration = {
            "upstream": {"url": upstream},
            "authenticationConfiguration": {
                "providers": [{"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE]}]
            },
            "rules": [{"path": "/", "methods": ["HEAD", "GET"], "access": "public"}],
        }
        caller = [("Authorization", f"Bearer {provider.mint()}")]
        with running_sidecar(tmp_path, configuration) as sidecar:
            for start in range(0, len(forged), 40):
                anonymous = variables(sidecar.url, forged[start : start + 40])
                assert "forged" not in anonymous.values(), anonymous
                known = variables(sidecar.url, [*forged[start : start + 40], *caller])
                assert "forged" not in known.values(), known
                assert known["HTTP_X_AUTH_REQUEST_USER"] == "alice"
