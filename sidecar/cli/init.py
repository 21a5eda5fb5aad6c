"""``sidecar init``: writes a first configuration that ``sidecar check`` accepts, and the proxy's part."""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sidecar.authn.registry import validate
from sidecar.cli.check import run_probes
from sidecar.cli.oauth2_proxy import Translation, read_oauth2_proxy
from sidecar.cli.probes import KeysProbe
from sidecar.cli.problems import report
from sidecar.cli.proxy_files import LISTENS_ON, PROXIES, ProxyFile, file_names, proxy_files
from sidecar.config.load import Loaded, load
from sidecar.config.reading.authority import read_authority
from sidecar.config.reading.tree import printable
from sidecar.errors import Misconfigured, Problem

_NAME = "sidecar.yaml"
_HEAD = (
    "# yaml-language-server: $schema=sidecar.schema.json\n"
    "# Written by `sidecar init`. Check it with `sidecar check`; `sidecar config schema > sidecar.schema.json` gives\n"
    "# editors completion.\n"
)
_LISTEN = "127.0.0.1:4180"
_MAX_QUESTIONS = 3


class _UnansweredError(Exception):
    """A required value has neither an option nor an answer."""


@dataclass(slots=True)
class _Plan:
    """The files to write. ``notes`` are printed after them."""

    document: dict[str, Any]
    proxy: list[ProxyFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "init",
        help="write a first sidecar.yaml, and the proxy's part",
        description="Asks for what is missing if standard input is a terminal. Never overwrites a file. "
        "Exit code 0: the files are written. 1: the issuer is unreachable or unusable. 2: a value is missing or "
        "invalid, or a file exists.",
    )
    parser.add_argument("--issuer", metavar="URL", help="issuer of the tokens; a discovery URL works as well")
    parser.add_argument(
        "--audience", metavar="AUD", action="append", help="accepted aud, often the client id; may be repeated"
    )
    parser.add_argument(
        "--any-audience", action="store_true", help="do not check aud (for tokens without aud, such as Cognito's)"
    )
    parser.add_argument("--upstream", metavar="URL", help="the server to protect, such as http://127.0.0.1:8585")
    parser.add_argument("--name", default="idp", help="name of the provider in logs and rules (default: idp)")
    parser.add_argument(
        "--claim",
        metavar="CLAIM",
        action="append",
        help="claim that names the caller; the first that is present decides (default: preferred_username, email, sub)",
    )
    parser.add_argument("--groups-claim", metavar="CLAIM", help="claim that lists the groups of the caller")
    parser.add_argument("--listen", metavar="ADDRESS", help=f"public listener (default: {_LISTEN})")
    parser.add_argument("--store", metavar="URL", help="store.url (default: an SQLite file beside sidecar.yaml)")
    parser.add_argument(
        "--from", metavar="FILE", dest="source", help="translate this configuration file of oauth2-proxy"
    )
    parser.add_argument(
        "--drop",
        metavar="OPTION",
        action="append",
        default=[],
        help="with --from: go on without this option, which restricts access and cannot be translated",
    )
    parser.add_argument("--proxy", choices=PROXIES, help="also write the configuration of this proxy, for checks")
    parser.add_argument(
        "--dir", metavar="DIR", type=Path, default=Path(), help="folder for the files (default: current folder)"
    )
    parser.add_argument("--offline", action="store_true", help="do not contact the issuer")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the files; returns the exit code."""
    logging.getLogger("sidecar").addHandler(logging.NullHandler())  # problems of issuers are printed once
    folder: Path = options.dir
    _require_folder(folder)
    names = (_NAME, *(file_names(options.proxy) if options.proxy else ()))
    _require_absent(folder, names)
    try:
        plan = _plan(options, folder.resolve())
    except _UnansweredError as error:
        print(f"sidecar init: {error}", file=sys.stderr)
        return 2
    loaded = _load(plan.document)
    if not options.offline:
        loaded, problems = _contact_issuers(plan.document, loaded)
        if problems:
            report(problems)
            print(
                "Nothing was written. Correct the issuer, or use --offline to write the files without contacting it.",
                file=sys.stderr,
            )
            return 1
    _write(folder, {_NAME: _HEAD + _dump(plan.document), **{one.name: one.text for one in plan.proxy}})
    report(loaded.warnings)
    for name in names:
        print(f"Wrote {folder / name}")
    for note in plan.notes:
        print(printable(note))
    print(f"Next: sidecar check --config {folder / _NAME}")
    return 0


def _plan(options: argparse.Namespace, folder: Path) -> _Plan:
    """The files for ``options``. Raises _UnansweredError and Misconfigured."""
    ask = _ask if sys.stdin.isatty() else _do_not_ask
    plan = _translated(options) if options.source else _Plan(_from_answers(options, ask))
    document = plan.document
    server = document.setdefault("server", {})
    if options.listen:
        server["listen"] = options.listen
    server.setdefault("listen", _LISTEN)
    upstream = options.upstream or document.get("upstream", {}).get("url", "")
    if not upstream:
        upstream = ask("--upstream", "URL of the server to protect, such as http://127.0.0.1:8585")
    if options.proxy:
        document.pop("upstream", None)
        server["trustedProxies"] = ["127.0.0.1/32", "::1/128"]
        plan.proxy = proxy_files(options.proxy, server["listen"], upstream)
        plan.notes.append(
            f"{options.proxy} listens on {LISTENS_ON}; its file is for a proxy on the same host as the sidecar. "
            "For another host, change server.listen and server.trustedProxies."
        )
    else:
        document["upstream"] = {**document.get("upstream", {}), "url": upstream}
    if options.store or "store" not in document:
        document["store"] = {"url": options.store or f"sqlite:///${{STATE_DIRECTORY:-{folder}}}/sidecar.db"}
    return plan


def _from_answers(options: argparse.Namespace, ask: Callable[[str, str], str]) -> dict[str, Any]:
    if options.drop:
        raise Misconfigured([Problem("", "--drop has no effect without --from")])
    issuer = options.issuer or ask("--issuer", "Issuer URL of the identity provider (iss of its tokens)")
    authority = read_authority(issuer)
    if authority.fault:
        raise Misconfigured([Problem("", f"--issuer {authority.fault}")])
    if options.any_audience and options.audience:
        raise Misconfigured([Problem("", "--audience and --any-audience exclude each other")])
    audiences = options.audience or []
    if not options.any_audience and not audiences:
        audiences = [ask("--audience", "Audience of the tokens (aud, often the client id)")]
    provider: dict[str, Any] = {"name": options.name, "issuer": _literal(authority.issuer)}
    if audiences:
        provider["audiences"] = [_literal(one) for one in audiences]
    provider["jwtPrincipalClaims"] = options.claim or ["preferred_username", "email", "sub"]
    if options.groups_claim:
        provider["groupsClaim"] = options.groups_claim
    return {"server": {}, "authenticationConfiguration": {"providers": [provider]}}


def _translated(options: argparse.Namespace) -> _Plan:
    """The configuration that ``--from`` names. Raises Misconfigured."""
    excluded = {
        "--issuer": options.issuer,
        "--audience": options.audience,
        "--any-audience": options.any_audience,
        "--claim": options.claim,
        "--groups-claim": options.groups_claim,
    }
    given = [name for name, value in excluded.items() if value]
    if given:
        raise Misconfigured([Problem("", f"{', '.join(given)} and --from exclude each other; edit the file instead")])
    translation: Translation = read_oauth2_proxy(options.source, options.name, options.drop)
    return _Plan(_literal_document(translation.document), notes=list(translation.notes))


def _ask(option: str, question: str) -> str:
    """The answer to ``question``. Raises _UnansweredError."""
    for _ in range(_MAX_QUESTIONS):
        print(f"{question}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            print(file=sys.stderr)
            break
        if line.strip():
            return line.strip()
    raise _UnansweredError(f"no answer; use {option} instead")


def _do_not_ask(option: str, question: str) -> str:
    raise _UnansweredError(f"{option} is missing ({question}), and standard input is not a terminal")


def _literal(text: str) -> str:
    """``text`` for the configuration, in which ``${`` begins a placeholder."""
    return text.replace("${", "$${")


def _literal_document(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _literal_document(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_literal_document(one) for one in value]
    return _literal(value) if isinstance(value, str) else value


def _dump(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=120)


def _load(document: Mapping[str, Any]) -> Loaded:
    """The configuration as ``sidecar serve`` reads it. Raises Misconfigured without the name of the temporary file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, _NAME)
        path.write_text(_dump(document), encoding="utf-8")
        try:
            return load([str(path)], os.environ, validate)
        except Misconfigured as error:
            problems = [Problem(one.path, one.message, fatal=one.fatal, id=one.id) for one in error.problems]
            raise Misconfigured(problems) from None


def _contact_issuers(document: dict[str, Any], loaded: Loaded) -> tuple[Loaded, list[Problem]]:
    """Fetch the keys of each provider; returns the problems.

    A final slash is part of an issuer but often lost when copied: if only that differs, ``document`` gets the other
    spelling, which the discovery document of the same URL has confirmed.
    """
    problems = _key_problems(loaded)
    if not problems:
        return loaded, []
    for entry in document["authenticationConfiguration"]["providers"]:
        issuer = entry["issuer"]
        entry["issuer"] = issuer.removesuffix("/") if issuer.endswith("/") else f"{issuer}/"
        changed = _load(document)
        better = _key_problems(changed)
        if len(better) < len(problems):
            print(f"Issuer {printable(entry['issuer'])}, as its discovery document says (the final slash counts)")
            loaded, problems = changed, better
        else:
            entry["issuer"] = issuer
    return loaded, problems


def _key_problems(loaded: Loaded) -> list[Problem]:
    probes = [KeysProbe(provider, loaded) for provider in loaded.providers]

    async def probe() -> list[Problem]:
        return await run_probes(probes)

    return [problem for problem in asyncio.run(probe()) if problem.fatal]


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise Misconfigured([Problem("", f"--dir {folder} is not a folder")])


def _require_absent(folder: Path, names: Sequence[str]) -> None:
    found = [str(folder / name) for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    if found:
        raise Misconfigured([Problem("", f"{', '.join(found)} exists and is not overwritten; use another --dir")])


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Create all files or none. Raises Misconfigured."""
    created: list[Path] = []
    try:
        for name, text in texts.items():
            path = folder / name
            with path.open("x", encoding="utf-8") as stream:
                created.append(path)
                stream.write(text)
    except OSError as error:
        for path in created:
            path.unlink(missing_ok=True)
        raise Misconfigured([Problem("", f"{error.filename or folder} cannot be written: {error.strerror}")]) from error
