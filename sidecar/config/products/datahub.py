"""DataHub's own configuration: ``application.yaml`` of its metadata service, and its environment variables."""

import os.path
from collections.abc import Mapping

from sidecar.config.products.spring import Expander, expand_tree
from sidecar.config.reading.decode import problem_at, split_unknown
from sidecar.config.reading.source import Document, SourceError, read
from sidecar.config.reading.tree import Block, Leaf, Node, Origin, child_of
from sidecar.config.settings import AuthenticationSettings
from sidecar.errors import Problem

BLOCK = "authentication"
_APPLICATION = "datahub"
_BASE_PATH = "basePath"
# What pydantic and Spring read as false.
_FALSE = frozenset({"false", "off", "no", "n", "f", "0"})
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


def read_import(file: str, importer: Origin, environ: Mapping[str, str]) -> tuple[Block, Leaf | None, list[Problem]]:
    """The block ``authentication`` of a full ``application.yaml``, and the base path of its metadata service.

    A relative ``file`` is relative to the importing one. All other sections are ignored. Unknown names are warnings,
    because the file is DataHub's.
    """
    file = os.path.join(os.path.dirname(importer.file), file)
    try:
        document = read(file, imported=True, placeholders=False)
    except SourceError as error:
        problem = Problem("" if error.line else "import.datahub", error.message, file, error.line)
        return Block({}, importer), None, [problem]
    tree, problems = document.resolve({}, only={BLOCK})
    if not isinstance(tree.entries.get(BLOCK), Block):
        text = (
            f"has no block {BLOCK}; name the application.yaml of DataHub's metadata service (0.8.18 or later), or "
            f"remove the import and write the block {BLOCK} here"
        )
        problems.append(Problem("import.datahub", text, file))
        return Block({}, importer), None, problems
    expander = Expander(environ)
    filled = expand_tree(tree.entries[BLOCK], (BLOCK,), expander, problems)
    known, unknown = split_unknown(AuthenticationSettings, filled, (BLOCK,))
    problems.extend(
        problem_at(tree, path, " ".join(("is unknown here and ignored;", hint)).rstrip("; "), fatal=False)
        for path, hint in unknown
    )
    return Block({BLOCK: known}, tree.origin), _base_path(document, expander, problems), problems


def disabled_at(imported: Block) -> Leaf | None:
    """``enabled`` of the server's block if it disables authentication there."""
    leaf = child_of(imported.entries.get(BLOCK, imported), "enabled")
    return leaf if isinstance(leaf, Leaf) and (leaf.value or "").lower() in _FALSE else None


def _base_path(document: Document, expander: Expander, problems: list[Problem]) -> Leaf | None:
    """``datahub.gms.basePath``, or ``datahub.basePath`` where that is empty."""
    section, _ = document.resolve({}, only={_APPLICATION})
    for path in ((_APPLICATION, "gms", _BASE_PATH), (_APPLICATION, _BASE_PATH)):
        node: Node | None = section
        for part in path:
            node = None if node is None else child_of(node, part)
        found = expand_tree(node, path, expander, problems) if isinstance(node, Leaf) else None
        if isinstance(found, Leaf) and found.value not in {None, "", "/"}:
            return found
    return None


def with_variables(tree: Block, environ: Mapping[str, str]) -> Block:
    """``tree``; keys that it omits get the values of DataHub's environment variables.

    The variables apply only if there is a block ``authentication``. Their text is used unchanged.
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
