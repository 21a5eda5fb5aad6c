"""The commands of the demo, in order."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One shell command to run in the demo folder: what it shows, and the expected status (0: none)."""

    status: int
    shows: str
    line: str


@dataclass(frozen=True, slots=True)
class Section:
    """Examples on one topic."""

    title: str
    examples: tuple[Example, ...]


def script(public: str, admin: str, provider: str, program: str) -> Iterator[Section]:
    """All sections. The first three are URLs; ``program`` is the sidecar command, quoted for a shell.

    Examples that change state affect the user carol only, so that all others can be repeated.
    """

    def curl(status: int, shows: str, credential: str | None, path: str, more: str = "") -> Example:
        presented = f"-H @{credential} " if credential else ""
        return Example(status, shows, f"curl -i {presented}{more}{public}{path}")

    original = "-H 'X-Original-URI: /hello' -H 'X-Original-Method: GET' "
    posted = "-H 'Content-Type: application/json' -d "
    carol = f"""'{{"issuer": "{provider}/acme", "subject": "carol"}}' """
    bot = """'{"name": "loader-bot", "kind": "bot"}' """
    yield Section(
        "Requests with a valid token are forwarded with identity headers",
        (
            curl(200, "alice, with a token of acme", "alice", "/hello"),
            curl(200, "boris, from another issuer with another algorithm: globex/boris", "boris", "/hello"),
            curl(200, "a bot, with a token that the sidecar minted", "bot", "/hello"),
            curl(
                200, "alice sends a forged header; it is ignored", "alice", "/hello", "-H 'X-Auth-Request-User: root' "
            ),
            curl(200, "a public path: no credential needed", None, "/health"),
            curl(200, "a path for the group admins: root is a member", "root", "/admin/"),
        ),
    )
    yield Section(
        "All other requests are rejected",
        (
            curl(403, "the same path: alice is not a member", "alice", "/admin/"),
            curl(401, "no token", None, "/hello"),
            curl(401, "an expired token", "expired", "/hello"),
            curl(401, "a foreign token: its issuer is not configured", "foreign", "/hello"),
            curl(401, "a forged token: issuer acme, signed with the key of globex", "forged", "/hello"),
            Example(
                0,
                "why was it rejected?",
                f"cut -d' ' -f3 forged | {program} token explain --config sidecar.yaml -",
            ),
        ),
    )
    yield Section(
        "Check endpoint for nginx, Envoy, Traefik and Caddy",
        (
            curl(200, "the identity of alice, in response headers", "alice", "/oauth2/auth", original),
            curl(401, "a check without a token", None, "/oauth2/auth", original),
        ),
    )
    yield Section(
        "Revoke tokens of any issuer",
        (
            curl(200, "carol, with a token of acme", "carol", "/hello"),
            curl(
                201,
                "root, an admin, revokes all tokens that acme issued to carol",
                "root",
                "/oauth2/revocations",
                posted + carol,
            ),
            curl(401, "carol again, with the same token", "carol", "/hello"),
        ),
    )
    yield Section(
        "Mint tokens for bots and users",
        (
            curl(201, "root mints a bot token, which is shown once", "root", "/oauth2/tokens", posted + bot),
            curl(200, "list the issued tokens", "root", "/oauth2/tokens"),
            Example(
                0,
                "mint a token on the command line",
                f"{program} token create --config sidecar.yaml --kind bot --name my-bot",
            ),
        ),
    )
    yield Section(
        "Metrics, health and logs",
        (
            Example(0, "authentication results by cause", f"curl -s {admin}/metrics | grep ^sidecar_authentications"),
            Example(0, "readiness", f"curl -s {admin}/readyz"),
            Example(0, "log lines: rejected requests, and the audit log", "tail -n 3 sidecar.log"),
        ),
    )
