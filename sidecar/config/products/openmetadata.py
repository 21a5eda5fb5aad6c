"""OpenMetadata's own configuration: its complete file, and its environment variables."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from sidecar.config.reading.decode import fields_by_name, problem_at, split_unknown
from sidecar.config.reading.source import SourceError, parse_value, read
from sidecar.config.reading.tree import Block, Items, Leaf, Node, Origin, child_of, leaves
from sidecar.config.settings import (
    UNUSED,
    AuthenticationConfiguration,
    AuthorizerConfiguration,
    JwtTokenConfiguration,
    Model,
    SecretsManagerConfiguration,
)
from sidecar.errors import Problem
from sidecar.secrets.ids import NO_MANAGER

BASE_PATH = "basePath"
PUBLISHED_KEY_ID = "Gb389a-9f76-gdjs-a92j-0242bk94356"
BLOCKS: Mapping[str, type[Model]] = {
    "authenticationConfiguration": AuthenticationConfiguration,
    "authorizerConfiguration": AuthorizerConfiguration,
    "jwtTokenConfiguration": JwtTokenConfiguration,
    "secretsManagerConfiguration": SecretsManagerConfiguration,
}
# Keys that only OpenMetadata uses are not read: they hold certificates and secrets in many formats.
IGNORED = frozenset(
    (block, name)
    for block, model in BLOCKS.items()
    for name, field in fields_by_name(model).items()
    if field.description == UNUSED
)
VARIABLES: Mapping[str, Mapping[str, str]] = {
    "authenticationConfiguration": {
        "publicKeyUrls": "AUTHENTICATION_PUBLIC_KEYS",
        "authority": "AUTHENTICATION_AUTHORITY",
        "clientId": "AUTHENTICATION_CLIENT_ID",
        "jwtPrincipalClaims": "AUTHENTICATION_JWT_PRINCIPAL_CLAIMS",
        "jwtPrincipalClaimsMapping": "AUTHENTICATION_JWT_PRINCIPAL_CLAIMS_MAPPING",
        "tokenValidationAlgorithm": "AUTHENTICATION_TOKEN_VALIDATION_ALGORITHM",
    },
    "authorizerConfiguration": {
        "adminPrincipals": "AUTHORIZER_ADMIN_PRINCIPALS",
        "principalDomain": "AUTHORIZER_PRINCIPAL_DOMAIN",
        "enforcePrincipalDomain": "AUTHORIZER_ENFORCE_PRINCIPAL_DOMAIN",
        "allowedDomains": "AUTHORIZER_ALLOWED_DOMAINS",
    },
    "jwtTokenConfiguration": {
        "rsapublicKeyFilePath": "RSA_PUBLIC_KEY_FILE_PATH",
        "rsaprivateKeyFilePath": "RSA_PRIVATE_KEY_FILE_PATH",
        "jwtissuer": "JWT_ISSUER",
        "keyId": "JWT_KEY_ID",
    },
    "secretsManagerConfiguration": {
        "secretsManager": "SECRET_MANAGER",
        "prefix": "SECRET_MANAGER_PREFIX",
        "tags": "SECRET_MANAGER_TAGS",
    },
}
_AIRFLOW = "AIRFLOW__OPENMETADATA_SECRETS_MANAGER__"
PARAMETER_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "vaultName": ("OM_SM_VAULT_NAME", f"{_AIRFLOW}AZURE_KEY_VAULT_NAME", "AZURE_KEY_VAULT_NAME"),
    "tenantId": ("OM_SM_TENANT_ID", f"{_AIRFLOW}AZURE_TENANT_ID"),
    "clientId": ("OM_SM_CLIENT_ID", f"{_AIRFLOW}AZURE_CLIENT_ID"),
    "clientSecret": ("OM_SM_CLIENT_SECRET", f"{_AIRFLOW}AZURE_CLIENT_SECRET"),
    "namespace": ("OM_SM_NAMESPACE",),
}
"""Of ``secretsManagerConfiguration.parameters``: the server's variable, then those of the loaders of its ingestion; the
first that is set and not empty counts."""
CLUSTER_NAME = "clusterName"


_CLUSTER_VARIABLE = "OPENMETADATA_CLUSTER_NAME"
_TOKENS = "jwtTokenConfiguration"
_SECRETS = "secretsManagerConfiguration"
_PIPELINES = "pipelineServiceClientConfiguration"
_LOADER = "secretsManagerLoader"
_KEY_FILES = ("rsapublicKeyFilePath", "rsaprivateKeyFilePath", "keyId")
# Of the server's block about its secrets, a fault stops nothing: it matters only if a setting refers to a secret.
_MAY_BE_FAULTY = frozenset({_SECRETS})
# Settings by which the server authenticates or authorizes, and that have no counterpart here.
_NOT_IN_FORCE: Mapping[tuple[str, str], str] = {
    ("authorizerConfiguration", "useRolesFromProvider"): "roles of a caller are those of rolesClaim, for rules here",
    ("authorizerConfiguration", "allowedEmailDomains"): "write allowedDomains",
    ("authenticationConfiguration", "jwtTeamClaimMapping"): "groups of a caller are those of a provider's groupsClaim",
}


def _loader_warnings(tree: Block) -> Iterator[Problem]:
    """The server's default, noop, keeps its ingestion from starting with a secrets manager."""
    manager = child_of(tree.entries.get(_SECRETS, tree), "secretsManager")
    loader = child_of(tree.entries.get(_PIPELINES, tree), _LOADER)
    if not isinstance(manager, Leaf) or not isinstance(loader, Leaf):
        return
    named, loads = ((leaf.value or "").strip("\"'") for leaf in (manager, loader))
    if loads == "noop" and named not in ("", *NO_MANAGER):
        message = f"is noop, and OpenMetadata's ingestion does not start with it and {named}; set it to env or airflow"
        yield problem_at(tree, (_PIPELINES, _LOADER), message, fatal=False)


def read_import(file: str, importer: Origin, environ: Mapping[str, str]) -> tuple[Block, Leaf | None, list[Problem]]:
    """The four blocks of a full ``openmetadata.yaml``, its ``clusterName``, and its ``basePath``.

    A relative ``file`` is relative to the importing one. All other sections are ignored. Unknown names are warnings,
    because the file is OpenMetadata's. Its keys become those of ``jwtTokenConfiguration.server``: they verify the
    server's tokens; the sidecar does not sign with them.
    """
    file = os.path.join(os.path.dirname(importer.file), file)
    try:
        document = read(file, imported=True)
    except SourceError as error:
        problem = Problem("" if error.line else "import.openmetadata", error.message, file, error.line)
        return Block({}, importer), None, [problem]
    only = {*BLOCKS, BASE_PATH, CLUSTER_NAME, _PIPELINES}
    tree, problems = document.resolve(environ, only=only, ignore=IGNORED - _NOT_IN_FORCE.keys())
    problems = [
        replace(problem, fatal=False) if problem.path.partition(".")[0] in _MAY_BE_FAULTY else problem
        for problem in problems
        if problem.path.partition(".")[0] != _PIPELINES
    ]
    problems += _loader_warnings(tree)
    entries: dict[str, Node] = {}
    base_path = tree.entries.get(BASE_PATH)
    for name, block in tree.entries.items():
        if name in (BASE_PATH, _PIPELINES):
            continue
        if name == CLUSTER_NAME:
            entries[name] = block
            continue
        if name in _MAY_BE_FAULTY and not isinstance(block, Block):
            continue
        entries[name], unknown = split_unknown(BLOCKS[name], block, (name,))
        problems.extend(
            problem_at(tree, path, " ".join(("is unknown here and ignored;", hint)).rstrip("; "), fatal=False)
            for path, hint in unknown
        )
    if BLOCKS.keys().isdisjoint(tree.entries) and not problems:
        text = f"has none of the blocks {', '.join(BLOCKS)}; name the server's openmetadata.yaml"
        problems.append(Problem("import.openmetadata", text, file))
    problems.extend(_not_in_force(tree))
    entries[_TOKENS] = _servers_own(entries.get(_TOKENS), file, environ, problems)
    return Block(entries, tree.origin), base_path if isinstance(base_path, Leaf) else None, problems


def _not_in_force(tree: Block) -> Iterator[Problem]:
    """A warning for each setting that is enabled at the server and has no counterpart here."""
    for path, instead in _NOT_IN_FORCE.items():
        node: Node | None = tree
        for part in path:
            node = None if node is None else child_of(node, part)
        values = [leaf.value for _, leaf in leaves(node)] if node is not None else []
        if any(value not in {None, "", "false", "False"} for value in values):
            yield problem_at(tree, path, f"has no effect here: {instead}", fatal=False)


def _servers_own(node: Node | None, file: str, environ: Mapping[str, str], problems: list[Problem]) -> Node:
    """The imported ``jwtTokenConfiguration``, its keys in ``server``. ``jwtissuer`` is kept as the default."""
    if isinstance(node, Items) or (isinstance(node, Leaf) and node.value is not None):
        return node
    block = node if isinstance(node, Block) else Block({}, Origin(file, imported=True))
    written = dict(block.entries)
    _fill(written, _TOKENS, environ, problems)
    public, private, key_id = (_text(written.pop(key, None)) for key in _KEY_FILES)
    server: dict[str, Node] = {"jwtissuer": written["jwtissuer"]} if "jwtissuer" in written else {}

    def tell(leaf: Leaf, key: str, message: str) -> None:
        problems.append(problem_at(leaf, (), message, fatal=False, at=(_TOKENS, key)))

    found = _existing(public.value or "", file) if public else ""
    if public and found:
        server["rsapublicKeyFilePath"] = Leaf(found, public.origin)
    elif public:
        message = (
            f"is {public.value}, which does not exist here or cannot be read: only its key set in publicKeyUrls "
            "verifies the server's tokens; mount the public key here to verify them without it"
        )
        tell(public, "rsapublicKeyFilePath", message)
    if private:
        message = (
            "is the server's signing key, which an import does not use; to mint tokens here, write "
            "jwtTokenConfiguration with keyDir and a jwtissuer of its own in the sidecar's own file"
        )
        tell(private, "rsaprivateKeyFilePath", message)
    if key_id and key_id.value == PUBLISHED_KEY_ID:
        message = (
            f"is {PUBLISHED_KEY_ID}, OpenMetadata's published default: the key pair of that name is public, so tokens "
            "signed with it are refused; give the server a key pair and JWT_KEY_ID of its own"
        )
        tell(key_id, "keyId", message)
    if server:
        written["server"] = Block(server, block.origin)
    return Block(written, block.origin)


def _text(node: Node | None) -> Leaf | None:
    """``node`` if it is a non-empty text."""
    return node if isinstance(node, Leaf) and node.value else None


def _existing(path: str, file: str) -> str:
    """The absolute path of the key file ``path`` of ``file``; empty if it cannot be read.

    The server resolves a relative path from its home, the parent of the directory with its configuration.
    """
    folder = os.path.dirname(os.path.abspath(file))
    for base in (os.path.dirname(folder), folder):
        whole = os.path.normpath(os.path.join(base, path))
        if os.path.isfile(whole) and os.access(whole, os.R_OK):
            return whole
    return ""


def with_variables(tree: Block, environ: Mapping[str, str], *, imported: bool = False) -> tuple[Block, list[Problem]]:
    """``tree``; keys that it omits get the values of OpenMetadata's environment variables.

    The variables apply only if ``tree`` has one of OpenMetadata's blocks. ``imported``: a file of the server was
    imported and the variables about its keys were read with it; they do not name signing keys of the sidecar.
    """
    if not BLOCKS.keys() & tree.entries.keys():
        return tree, []
    entries = dict(tree.entries)
    problems: list[Problem] = []
    for name in VARIABLES:
        if imported and name == _TOKENS:
            continue
        block = entries.get(name)
        if isinstance(block, Leaf) and block.value is None:
            block = None
        if block is not None and not isinstance(block, Block):
            continue
        given = dict(block.entries) if block else {}
        _fill(given, name, environ, problems)
        if name == _SECRETS:
            _fill_parameters(given, environ, problems)
        if given:
            entries[name] = Block(given, block.origin if block else Origin())
    if CLUSTER_NAME not in entries and environ.get(_CLUSTER_VARIABLE):
        entries[CLUSTER_NAME] = Leaf(environ[_CLUSTER_VARIABLE], Origin(variable=_CLUSTER_VARIABLE))
    return Block(entries, tree.origin), problems


def _fill_parameters(given: dict[str, Node], environ: Mapping[str, str], problems: list[Problem]) -> None:
    """Add to ``given``, the secrets manager's block, parameters that it omits and a variable has."""
    block = given.get("parameters")
    if isinstance(block, Items) or (isinstance(block, Leaf) and block.value is not None):
        return
    parameters = dict(block.entries) if isinstance(block, Block) else {}
    for key, names in PARAMETER_VARIABLES.items():
        written = parameters.get(key)
        if written is not None and not (isinstance(written, Leaf) and written.value is None):
            continue
        variable = next((name for name in names if environ.get(name, "").strip("\"'")), None)
        if variable is None:
            continue
        try:
            parameters[key] = _from_variable(variable, environ[variable])
        except ValueError as error:
            message = f"the environment variable {variable} {error}"
            problems.append(Problem(f"{_SECRETS}.parameters.{key}", message, fatal=False))
    if parameters:
        given["parameters"] = Block(parameters, block.origin if block else Origin())


def _fill(given: dict[str, Node], block: str, environ: Mapping[str, str], problems: list[Problem]) -> None:
    """Add to ``given``, the keys of ``block``, the omitted keys for which a variable is set."""
    for key, variable in VARIABLES[block].items():
        if key in given or variable not in environ:
            continue
        try:
            given[key] = _from_variable(variable, environ[variable])
        except ValueError as error:
            message = f"the environment variable {variable} {error}"
            problems.append(Problem(f"{block}.{key}", message, fatal=block not in _MAY_BE_FAULTY))


def _from_variable(variable: str, text: str) -> Node:
    origin = Origin(variable=variable)
    value = parse_value(text)
    if isinstance(value, list):
        return Items(tuple(Leaf(item, origin) for item in value), origin)
    return Leaf(value, origin)
