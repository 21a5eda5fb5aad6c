"""DataHub's own ways of configuring: its metadata service's ``application.yaml``, and its environment variables."""

import os.path
from collections.abc import Mapping

from sidecar.config.decode import problem_at, split_unknown
from sidecar.config.settings import AuthenticationSettings
from sidecar.config.source import SourceError, read
from sidecar.config.spring import Expander, expanded
from sidecar.config.tree import Block, Leaf, Node, Origin
from sidecar.errors import Problem

BLOCK = "authentication"
VARIABLES: Mapping[str, Mapping[str, str]] = {
    BLOCK: {
        "enabled": "METADATA_SERVICE_AUTH_ENABLED",
        "systemClientId": "DATAHUB_SYSTEM_CLIENT_ID",
        "systemClientSecret": "DATAHUB_SYSTEM_CLIENT_SECRET",
    },
    f"{BLOCK}.tokenService": {
        "signingKey": "DATAHUB_TOKEN_SERVICE_SIGNING_KEY",
        "salt": "DATAHUB_TOKEN_SERVICE_SALT",
        "issuer": "DATAHUB_TOKEN_SERVICE_ISSUER",
        "signingAlgorithm": "DATAHUB_TOKEN_SERVICE_SIGNING_ALGORITHM",
    },
}


def read_import(file: str, importer: Origin, environ: Mapping[str, str]) -> tuple[Block, list[Problem]]:
    """The block ``authentication`` of a full ``application.yaml``; a relative ``file`` lies beside the importing one.

    All other sections are ignored. A name we do not know is a warning: it is DataHub's business.
    """
    file = os.path.join(os.path.dirname(importer.file), file)
    try:
        document = read(file, imported=True, placeholders=False)
    except SourceError as error:
        return Block({}, importer), [Problem("" if error.line else "import.datahub", error.message, file, error.line)]
    tree, problems = document.resolve({}, only={BLOCK})
    if not isinstance(tree.entries.get(BLOCK), Block):
        problems.append(Problem("import.datahub", f"has no block {BLOCK}", file))
        return Block({}, importer), problems
    filled = expanded(tree.entries[BLOCK], (BLOCK,), Expander(environ), problems)
    known, unknown = split_unknown(AuthenticationSettings, filled, (BLOCK,))
    problems.extend(
        problem_at(tree, path, " ".join(("is not known here and ignored;", hint)).rstrip("; "), fatal=False)
        for path, hint in unknown
    )
    return Block({BLOCK: known}, tree.origin), problems


def with_variables(tree: Block, environ: Mapping[str, str]) -> Block:
    """``tree`` with DataHub's variables as values of keys that it omits, never over one that is written.

    They count only where there is a block ``authentication``. Their text is taken as it is.
    """
    block = tree.entries.get(BLOCK)
    if not isinstance(block, Block):
        return tree
    service = block.entries.get("tokenService")
    if service is None or (isinstance(service, Leaf) and service.value is None):
        service = Block({}, block.origin)
    entries: dict[str, Node] = {**_given(VARIABLES[BLOCK], environ), **block.entries}
    if isinstance(service, Block):
        given = _given(VARIABLES[f"{BLOCK}.tokenService"], environ)
        entries["tokenService"] = Block({**given, **service.entries}, service.origin)
    return Block({**tree.entries, BLOCK: Block(entries, block.origin)}, tree.origin)


def _given(variables: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Node]:
    return {
        key: Leaf(environ[variable], Origin(variable=variable))
        for key, variable in variables.items()
        if environ.get(variable)
    }
