"""Files and environment in, frozen Settings out; every problem in one report.

source -> import -> variables -> decode -> providers and cross-checks. If settings refer to secrets in a secrets
manager, this runs twice: the first time without their values, to find every other error and what has to be read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from sidecar.config.authenticators import AuthenticatorConfig, configured_authenticators
from sidecar.config.checks import CHECKS
from sidecar.config.credential_mode import credential_mode
from sidecar.config.outbound import egress_of, with_ca_file
from sidecar.config.products import datahub, openmetadata
from sidecar.config.products.other_programs import instead_of
from sidecar.config.providers import Provider, default_principal, names_datahub_users, providers
from sidecar.config.reading.decode import decode, fields_by_name, models_in, problem_at, split_unknown
from sidecar.config.reading.finding import Finding, FindingId, finding
from sidecar.config.reading.source import SourceError, read
from sidecar.config.reading.tree import (
    Block,
    Items,
    Leaf,
    Node,
    Origin,
    Path,
    child_of,
    dotted,
    leaves,
    merge,
    origin_of,
)
from sidecar.config.reading.urls import upstream_base_path
from sidecar.config.secrets_manager import SECRETS_MANAGER, reference_problems
from sidecar.config.settings import ProviderSettings, Settings
from sidecar.egress import NO_PROXY, Egress
from sidecar.errors import Misconfigured, Problem
from sidecar.secrets.resolve import PENDING, Resolver, SecretReference
from sidecar.secrets.value import Secret


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration. ``sources`` has the origin of each configured path.

    ``authenticators``: entries with options that are not validated. ``since``: when its naming rules for Actors took
    effect in this process (seconds since the epoch; infinite: not yet). ``egress``: which outgoing requests use a
    proxy. ``references``: the settings whose values are in the secrets manager. ``secret_files``: the files that
    ``file:`` values name.
    """

    settings: Settings
    providers: tuple[Provider, ...] = ()
    authenticators: tuple[AuthenticatorConfig, ...] = field(default=(), repr=False)
    warnings: tuple[Problem, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    since: float = inf
    egress: Egress = NO_PROXY
    references: tuple[SecretReference, ...] = ()
    secret_files: tuple[str, ...] = ()

    @property
    def undecided(self) -> tuple[str, ...]:
        """Where ``upstream.credentials`` decides on ``principal``: names of providers, and the block of the chain."""
        found = [f"provider {one.name}" for one in self.providers if not one.is_principal_written]
        block = self.settings.authentication_configuration
        if names_datahub_users(self.settings) and self.authenticators and block.principal is None:
            found.append("authentication.authenticators")
        return tuple(found)

    def located(self, problems: Iterable[Problem]) -> list[Problem]:
        """``problems``, each with the file and line, or the variable, that its value comes from."""
        return [
            problem
            if problem.file or problem.path not in self.sources
            else replace(problem, message=f"{problem.message} (value of {self.sources[problem.path]})")
            for problem in problems
        ]

    def names_as(self, other: "Loaded") -> bool:
        """Whether both read names in the same way wherever this one leaves it to ``upstream.credentials``."""
        rules = {provider.name: provider.principal for provider in other.providers}
        same = all(rules.get(one.name, one.principal) == one.principal for one in self.providers)
        return same and default_principal(self.settings) == default_principal(other.settings)


def _unread(_: Sequence[AuthenticatorConfig]) -> Sequence[Problem]:
    return ()


ReadSecrets = Callable[["Loaded"], Mapping[str, Secret]]
"""Reads the secrets that ``references`` of a configuration name: by id. The settings of the references are at their
defaults in that configuration. Raises SidecarError."""


def load(
    paths: Sequence[str],
    environ: Mapping[str, str],
    validate_authenticators: Callable[[Sequence[AuthenticatorConfig]], Sequence[Problem]] = _unread,
    read_secrets: ReadSecrets | None = None,
) -> Loaded:
    """Read ``paths`` in order, later wins; no path: the defaults. Raises Misconfigured with every problem found.

    ``validate_authenticators`` validates the authenticators and their options.
    ``read_secrets`` is called if settings refer to a secrets manager, after everything else was found to be valid;
    without it such a configuration is rejected.
    """
    first = load_without_secrets(paths, environ, validate_authenticators)
    if not first.references:
        return first
    if read_secrets is None:
        raise Misconfigured([Problem(one.path, PENDING, one.file, one.line) for one in first.references])
    held = dict(read_secrets(first))
    loaded = _load(paths, environ, validate_authenticators, held)
    missing = [one for one in loaded.references if one.id not in held]
    if missing:
        message = "is a secret that was not read: the file changed in the meantime; reload again"
        raise Misconfigured([Problem(one.path, message, one.file, one.line) for one in missing])
    return loaded


def load_without_secrets(
    paths: Sequence[str],
    environ: Mapping[str, str],
    validate_authenticators: Callable[[Sequence[AuthenticatorConfig]], Sequence[Problem]] = _unread,
) -> Loaded:
    """As :func:`load`, without a secrets manager: settings that refer to one are at their defaults.

    Only for checking a configuration, and for finding its ``references``: it must not be served.
    """
    return _load(paths, environ, validate_authenticators, {})


def _load(
    paths: Sequence[str],
    environ: Mapping[str, str],
    validate_authenticators: Callable[[Sequence[AuthenticatorConfig]], Sequence[Problem]],
    held: Mapping[str, Secret],
) -> Loaded:
    """The configuration with the secrets ``held``; a setting whose secret is not there is at its default."""
    tree, problems, is_whole, disabled = _read_all(paths, environ)
    has_import = bool(_import_of(tree, "openmetadata"))
    tree, more = openmetadata.with_variables(tree, environ, imported=has_import)
    problems += more
    tree = datahub.with_variables(tree, environ)
    # without a value that could not be read, findings about its block would be wrong
    unread = {problem.path.partition(".")[0].partition("[")[0] for problem in problems if problem.fatal}
    known, unknown = split_unknown(Settings, tree)
    problems += [problem_at(tree, path, _about_unknown(path, hint)) for path, hint in unknown]
    assert isinstance(known, Block)  # noqa: S101 - split_unknown keeps the kind of node
    resolver = Resolver(environ, held)
    decoded = decode(Settings, known, resolver)
    problems += [_without_effect(problem, paths) for problem in decoded.problems]
    members = configured_authenticators(decoded.value.authentication, known, resolver)
    problems += validate_authenticators(members)
    references = _references(known, problems, held)
    unusable = reference_problems(decoded.value, references) if references else []
    # what the rest means without a secret says nothing about what it means with it: it is checked when that is read
    is_pending = not unusable and any(problem.message.startswith(PENDING) for problem in decoded.problems)
    problems = [problem for problem in problems if not problem.message.startswith(PENDING)] + unusable
    found, findings = providers(decoded.value)
    for check in CHECKS:
        findings.extend(check(decoded.value))
    problems += [
        problem_at(known, one.path, one.message, fatal=_is_fatal(known, one), identifier=one.id)
        for one in findings
        # the same without a file
        if is_whole and not is_pending and not decoded.concerns_broken(one.path) and unread.isdisjoint(one.path[:1])
    ]
    problems += _about_disabled(decoded.value, disabled)
    egress, more = egress_of(decoded.value, environ)
    problems += more
    problems = sorted(set(problems), key=lambda problem: (problem.file, problem.line, problem.path, problem.message))
    if any(problem.fatal for problem in problems):
        raise Misconfigured(problems)
    sources = {dotted(path): str(leaf.origin) for path, leaf in leaves(known)}
    return Loaded(
        with_ca_file(decoded.value),
        found,
        members,
        tuple(problems),
        sources,
        egress=egress,
        references=references,
        secret_files=tuple(sorted(resolver.files)),
    )


def _references(known: Block, problems: Sequence[Problem], held: Mapping[str, Secret]) -> tuple[SecretReference, ...]:
    """The settings whose secrets are in the secrets manager, in the order of the file.

    A setting asks for its secret while it is decoded. Its value is then either pending, which is a problem, or held.
    """
    pending = {problem.path for problem in problems if problem.message.startswith(PENDING)}
    found = []
    for path, leaf in leaves(known):
        scheme, _, secret_id = (leaf.value or "").partition(":")
        if scheme == "secret" and (dotted(path) in pending or secret_id in held):
            found.append(SecretReference(dotted(path), secret_id, leaf.origin.file, leaf.origin.line))
    return tuple(found)


def _without_effect(problem: Problem, paths: Sequence[str]) -> Problem:
    """``problem`` as a warning if it is about the server's secrets manager in an imported file or a variable."""
    is_ours = problem.file in paths or not problem.path.startswith(SECRETS_MANAGER)
    return problem if is_ours else replace(problem, fatal=False)


def _about_disabled(settings: Settings, disabled: Leaf | None) -> Iterator[Problem]:
    """A DataHub that authenticates nothing treats each request without its header as one of its system client."""
    upstream = settings.upstream
    if disabled is None or upstream is None or not upstream.url or credential_mode(settings).sends_actor_header:
        return
    message = (
        f"is {upstream.credentials}, and authentication is disabled at the imported server: it ignores tokens and "
        "treats every caller as its system client; set credentials: datahubHeader, or enable authentication at the "
        "server and set METADATA_SERVICE_AUTH_ENABLED=true here too"
    )
    found = finding(FindingId.DATAHUB_UNAUTHENTICATED, ("upstream", "credentials"), message)
    yield problem_at(disabled, found.path, message, fatal=found.fatal, identifier=found.id)


def _read_all(paths: Sequence[str], environ: Mapping[str, str]) -> tuple[Block, list[Problem], bool, Leaf | None]:
    """All files as one tree, below it what they import; the problems; whether every one of them could be read.

    The leaf is the setting of an imported DataHub that disables its authentication.
    """
    tree = Block({}, Origin())
    problems: list[Problem] = []
    is_whole = True
    for path in paths:
        try:
            document = read(path)
        except SourceError as error:
            problems.append(Problem("", error.message, path, error.line))
            is_whole = False
            continue
        block, more = document.resolve(environ, ignore=openmetadata.IGNORED)
        problems += more
        tree = _merged(tree, block)
    base_paths: dict[str, Leaf] = {}
    disabled: Leaf | None = None
    for product, read_import in (("openmetadata", openmetadata.read_import), ("datahub", datahub.read_import)):
        name = _import_of(tree, product)
        if name is not None:
            imported, base_path, more = read_import(name.value or "", name.origin, environ)
            problems += more
            if product == "datahub":
                disabled = datahub.disabled_at(imported)
            if base_path is not None and (base_path.value or "").rstrip("/"):
                base_paths[product] = base_path
            # an import that cannot be read counts as an empty block
            is_whole = is_whole and imported.origin != name.origin
            tree = _merged(_without_own_issuer(imported, tree), tree)
    return _with_base_paths(tree, base_paths), problems, is_whole, disabled


def _import_of(tree: Block, product: str) -> Leaf | None:
    """The configured import file of ``product``, or None."""
    section = tree.entries.get("import")
    name = section.entries.get(product) if isinstance(section, Block) else None
    return name if isinstance(name, Leaf) and name.value else None


def _without_own_issuer(imported: Block, tree: Block) -> Block:
    """``imported``, without the server's ``jwtissuer`` if ``tree`` has signing keys: they need another issuer."""
    block, own = (one.entries.get("jwtTokenConfiguration") for one in (imported, tree))
    names_keys = isinstance(own, Block) and not {"keyDir", "keySecret", "rsaprivateKeyFilePath"}.isdisjoint(own.entries)
    if not names_keys or not isinstance(block, Block):
        return imported
    kept = Block({name: node for name, node in block.entries.items() if name != "jwtissuer"}, block.origin)
    return Block({**imported.entries, "jwtTokenConfiguration": kept}, imported.origin)


def _with_base_paths(tree: Block, base_paths: Mapping[str, Leaf]) -> Block:
    """``tree``; presets without ``basePath`` get that of the imported file.

    Not if ``upstream.url`` has the same path: then callers do not send it.
    """
    rules = tree.entries.get("rules")
    url = child_of(tree.entries.get("upstream", tree), "url")
    upstream_path = upstream_base_path(url.value or "") if isinstance(url, Leaf) else ""
    if not isinstance(rules, Items):
        return tree
    values: list[Node] = []
    for written in rules.values:
        preset = child_of(written, "preset")
        base_path = base_paths.get(preset.value or "") if isinstance(preset, Leaf) else None
        is_elsewhere = base_path is not None and (base_path.value or "").rstrip("/") != upstream_path
        if base_path is not None and is_elsewhere and isinstance(written, Block) and "basePath" not in written.entries:
            values.append(Block({**written.entries, "basePath": base_path}, written.origin))
        else:
            values.append(written)
    return Block({**tree.entries, "rules": Items(tuple(values), rules.origin)}, tree.origin)


def _merged(lower: Block, upper: Block) -> Block:
    merged = merge(lower, upper)
    assert isinstance(merged, Block)  # noqa: S101 - two blocks merge to a block
    return merged


def _is_fatal(tree: Block, one: Finding) -> bool:
    if not one.idle:
        return one.fatal
    origin = origin_of(tree, one.path)
    return one.fatal and bool(origin.file) and not origin.imported


def _about_unknown(path: Path, hint: str) -> str:
    if any(character.isspace() and character != " " for character in str(path[-1])):
        return "has a no-break space or another special blank in its name; write spaces"
    hint = instead_of(str(path[-1])) or hint
    if not hint:
        name = str(path[-1])
        homes = [
            block
            for block, field_info in fields_by_name(Settings).items()
            if any(name in fields_by_name(model) for model in models_in(field_info.annotation))
        ]
        if path[0] == "authenticationConfiguration" and name in fields_by_name(ProviderSettings):
            homes = ["each entry of authenticationConfiguration.providers"]
        hint = f"it belongs below {' or '.join(homes)}" if homes else "remove it"
    return f"is not a known name; {hint}"
