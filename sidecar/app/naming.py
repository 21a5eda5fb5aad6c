"""Checks that ``principal`` is set explicitly if the store has entries whose names depend on it."""

from sidecar.config.load import Loaded
from sidecar.errors import Misconfigured, Problem, Unavailable
from sidecar.store.base import RecordQuery, Store
from sidecar.store.pages import all_pages, all_records

EXAMPLE = "Alice@Corp.com"
"""An address for which the two rules give different names."""
_SETTING = "authenticationConfiguration.principal"


async def check_names(loaded: Loaded, store: Store, now: float) -> None:
    """Raise Misconfigured if ``principal`` must be set and is not.

    This is the case with ``upstream.credentials`` for DataHub if ``store`` has records of issued tokens or revocation
    entries for Actors from before ``loaded`` was activated: under the default, those entries may name the Actors
    differently and would no longer match. A store that does not respond may have such entries.
    """
    if not loaded.undecided:
        return
    try:
        held = await _existing_entries(store, loaded.since, now)
    except Unavailable as failure:
        why = f"cannot be read, so that it may hold token records or revocation entries for Actors ({failure.detail})"
        raise Misconfigured([Problem(_SETTING, _message(loaded, why))]) from failure
    if held:
        raise Misconfigured(
            [Problem(_SETTING, _message(loaded, f"holds {held}, which may use the names of the other rule"))]
        )


def example_name(rule: str) -> str:
    """The name that ``rule`` gives :data:`EXAMPLE`."""
    return EXAMPLE if rule == "verbatim" else EXAMPLE.partition("@")[0].lower()


def _message(loaded: Loaded, why: str) -> str:
    upstream = loaded.settings.upstream
    return (
        f"must be set: upstream.credentials is {upstream.credentials if upstream else ''}, so the default is "
        f"verbatim, and the store {why}. With principal: localPart the name {EXAMPLE} gives the Actor "
        f"{example_name('localPart')}, as in versions without the setting; with principal: verbatim "
        f"{example_name('verbatim')}, as DataHub names its users. Affected: {', '.join(loaded.undecided)}"
    )


async def _existing_entries(store: Store, since: float, now: float) -> str:
    """The kind of entries from before ``since``; empty: there are none."""
    async for record in all_records(store, RecordQuery()):
        if record.created_at < since:
            return "token records"
    # entries without an issuer are about Actors
    async for page in all_pages(lambda after, limit: store.entries("", after, limit, now)):
        if any(entry.created_at < since for entry in page.entries):
            return "revocation entries for Actors"
    return ""
