"""OpenMetadata's own ways of configuring: its full file, and its environment variables."""

import os.path
from collections.abc import Mapping

from sidecar.config.reading.decode import fields_by_name, problem_at, split_unknown
from sidecar.config.reading.source import SourceError, parse_value, read
from sidecar.config.reading.tree import Block, Items, Leaf, Node, Origin
from sidecar.config.settings import (
    UNUSED,
    AuthenticationConfiguration,
    AuthorizerConfiguration,
    JwtTokenConfiguration,
    Model,
    SecretsManagerConfiguration,
)
from sidecar.errors import Problem

BASE_PATH = "basePath"
BLOCKS: Mapping[str, type[Model]] = {
    "authenticationConfiguration": AuthenticationConfiguration,
    "authorizerConfiguration": AuthorizerConfiguration,
    "jwtTokenConfiguration": JwtTokenConfiguration,
    "secretsManagerConfiguration": SecretsManagerConfiguration,
}
# What only OpenMetadata uses is not even looked at: certificates and secrets of all shapes stand there.
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
    "secretsManagerConfiguration": {"secretsManager": "SECRET_MANAGER"},
}


def read_import(file: str, importer: Origin, environ: Mapping[str, str]) -> tuple[Block, Leaf | None, list[Problem]]:
    """The four blocks of a full ``openmetadata.yaml``, and its ``basePath``.

    A relative ``file`` lies beside the importing one. All other sections are ignored. A name we do not know is a
    warning: it is OpenMetadata's business.
    """
    file = os.path.join(os.path.dirname(importer.file), file)
    try:
        document = read(file, imported=True)
    except SourceError as error:
        problem = Problem("" if error.line else "import.openmetadata", error.message, file, error.line)
        return Block({}, importer), None, [problem]
    tree, problems = document.resolve(environ, only={*BLOCKS, BASE_PATH}, ignore=IGNORED)
    entries: dict[str, Node] = {}
    base_path = tree.entries.get(BASE_PATH)
    for name, block in tree.entries.items():
        if name == BASE_PATH:
            continue
        entries[name], unknown = split_unknown(BLOCKS[name], block, (name,))
        problems.extend(
            problem_at(tree, path, " ".join(("is not known here and ignored;", hint)).rstrip("; "), fatal=False)
            for path, hint in unknown
        )
    return Block(entries, tree.origin), base_path if isinstance(base_path, Leaf) else None, problems


def with_variables(tree: Block, environ: Mapping[str, str]) -> tuple[Block, list[Problem]]:
    """``tree`` with OpenMetadata's variables as values of keys that it omits, never over one that is written.

    They count only where OpenMetadata's vocabulary is in use at all: in a file with one of its blocks.
    """
    if not BLOCKS.keys() & tree.entries.keys():
        return tree, []
    entries = dict(tree.entries)
    problems = []
    for name, variables in VARIABLES.items():
        block = entries.get(name)
        if isinstance(block, Leaf) and block.value is None:
            block = None
        if block is not None and not isinstance(block, Block):
            continue
        given = dict(block.entries) if block else {}
        for key, variable in variables.items():
            if key in given or variable not in environ:
                continue
            try:
                given[key] = _from_variable(variable, environ[variable])
            except ValueError as error:
                problems.append(Problem(f"{name}.{key}", f"the environment variable {variable} {error}"))
        if given:
            entries[name] = Block(given, block.origin if block else Origin())
    return Block(entries, tree.origin), problems


def _from_variable(variable: str, text: str) -> Node:
    origin = Origin(variable=variable)
    value = parse_value(text)
    if isinstance(value, list):
        return Items(tuple(Leaf(item, origin) for item in value), origin)
    return Leaf(value, origin)
