"""What there is to see in the demonstration: lines to paste, in the order in which they make sense."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One line for a shell in the demonstration's folder: what it shows, and the status that it gets (0: none)."""

    status: int
    shows: str
    line: str


@dataclass(frozen=True, slots=True)
class Section:
    """Trials about one thing."""

    title: str
    examples: tuple[Example, ...]


def script(public: str, admin: str, provider: str, program: str) -> Iterator[Section]:
    """The whole programme. The first three are URLs; ``program`` is the command as a shell takes it.

    What a trial changes concerns nobody but Carol, so that every other line can be repeated.
    """

    def curl(status: int, shows: str, credential: str | None, path: str, more: str = "") -> Example:
        presented = f"-H @{credential} " if credential else ""
        return Example(status, shows, f"curl -i {presented}{more}{public}{path}")

    posted = "-H 'Content-Type: application/json' -d "
    carol = f"""'{{"issuer": "{provider}/acme", "subject": "carol"}}' """
    bot = """'{"name": "loader-bot", "kind": "bot"}' """
    yield Section(
        "A good token gets through, and the service behind is told whose it is",
        (
            curl(200, "alice, whose token acme has issued", "alice", "/hello"),
            curl(200, "boris, from another issuer with another algorithm: he is globex/boris", "boris", "/hello"),
            curl(200, "a bot, whose token the sidecar has minted itself", "bot", "/hello"),
            curl(200, "alice, who claims to be root: not heard", "alice", "/hello", "-H 'X-Auth-Request-User: root' "),
            curl(200, "a public path: nobody need be known", None, "/health"),
            curl(200, "a path for the group admins: root is in it", "root", "/admin/"),
        ),
    )
    yield Section(
        "Everything else stays outside",
        (
            curl(403, "the same path: alice is not in the group", "alice", "/admin/"),
            curl(401, "no token", None, "/hello"),
            curl(401, "an expired token", "expired", "/hello"),
            curl(401, "a foreign token: its issuer is not configured", "foreign", "/hello"),
            curl(401, "a forged token: globex's key signs in acme's name", "forged", "/hello"),
            Example(
                0, "why is that one refused?", f"cut -d' ' -f3 forged | {program} token explain --config sidecar.yaml -"
            ),
        ),
    )
    yield Section(
        "nginx, Envoy, Traefik and Caddy may ask, instead of being replaced",
        (
            curl(200, "the answer alone: alice, in its headers", "alice", "/oauth2/auth"),
            curl(401, "the answer about nobody", None, "/oauth2/auth"),
        ),
    )
    yield Section(
        "A token ends when you say so, whoever has issued it",
        (
            curl(200, "carol, from acme", "carol", "/hello"),
            curl(
                201,
                "root, an admin, ends all that acme has issued to her",
                "root",
                "/oauth2/revocations",
                posted + carol,
            ),
            curl(401, "carol again, with the same token", "carol", "/hello"),
        ),
    )
    yield Section(
        "Bots get tokens here, and people too",
        (
            curl(201, "root mints one; it is shown this once", "root", "/oauth2/tokens", posted + bot),
            curl(200, "what has been minted, and for whom", "root", "/oauth2/tokens"),
            Example(
                0, "the same on the machine", f"{program} token create --config sidecar.yaml --kind bot --name my-bot"
            ),
        ),
    )
    yield Section(
        "What it says of itself",
        (
            Example(
                0, "who was let in, who was not, and why", f"curl -s {admin}/metrics | grep ^sidecar_authentications"
            ),
            Example(0, "is it ready?", f"curl -s {admin}/readyz"),
            Example(0, "a log line for each refusal, and for what was changed by whom", "tail -n 3 sidecar.log"),
        ),
    )
