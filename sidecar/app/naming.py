"""Whether it is known how people are named: a store with entries holds the names of one rule or the other."""

from collections.abc import AsyncIterator

from sidecar.config.load import Loaded
from sidecar.errors import Misconfigured, Problem, Unavailable
from sidecar.store.base import Page, RecordQuery, Store

_PAGE = 500
EXAMPLE = "Alice@Corp.com"
"""An address that the two rules read differently."""
_SETTING = "authenticationConfiguration.principal"


async def check_names(loaded: Loaded, store: Store, now: float) -> None:
    """Raise Misconfigured where ``principal`` must be written and is not.

    That is so with ``upstream.credentials`` for DataHub as soon as ``store`` holds records of own tokens or denials of
    Actors from before ``loaded`` was put in force: its default may call people otherwise than those entries do, which
    then concern them no more. A store that cannot be asked may hold some.
    """
    if not loaded.undecided:
        return
    try:
        held = await _held(store, loaded.since, now)
    except Unavailable as failure:
        why = f"cannot be asked whether it holds token records or denials of Actors ({failure.detail})"
        raise Misconfigured([Problem(_SETTING, _message(loaded, why))]) from failure
    if held:
        raise Misconfigured(
            [Problem(_SETTING, _message(loaded, f"holds {held}, perhaps under the names of the other"))]
        )


def reading(rule: str) -> str:
    """What ``rule`` makes of :data:`EXAMPLE`."""
    return EXAMPLE if rule == "verbatim" else EXAMPLE.partition("@")[0].lower()


def _message(loaded: Loaded, why: str) -> str:
    upstream = loaded.settings.upstream
    return (
        f"must be written: upstream.credentials is {upstream.credentials if upstream else ''}, so the default is "
        f"verbatim, and the store {why}. With principal: localPart the name {EXAMPLE} is the Actor "
        f"{reading('localPart')}, as in versions without the setting; with principal: verbatim it is "
        f"{reading('verbatim')}, as DataHub names its users. Concerned: {', '.join(loaded.undecided)}"
    )


async def _held(store: Store, since: float, now: float) -> str:
    """What there is from before ``since``; empty: nothing."""
    async for page in _pages(store, None):
        if any(record.created_at < since for record in page.records):
            return "token records"
    async for page in _pages(store, now):
        if any(denial.created_at < since for denial in page.entries):
            return "denials of Actors"
    return ""


async def _pages(store: Store, now: float | None) -> AsyncIterator[Page]:
    """All records, or with ``now`` all denials of Actors that stand then, which have no issuer."""
    after = ""
    while True:
        if now is None:
            page = await store.records(RecordQuery(), after, _PAGE)
        else:
            page = await store.entries("", after, _PAGE, now)
        yield page
        after = page.after
        if not after:
            return
