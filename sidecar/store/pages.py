"""Reads paged lists of a store to their end."""

from collections.abc import AsyncIterator, Awaitable, Callable

from sidecar.store.base import Page, RecordQuery, Store
from sidecar.store.record import TokenRecord

PAGE_SIZE = 500
"""Items per page."""


async def all_pages(fetch: Callable[[str, int], Awaitable[Page]]) -> AsyncIterator[Page]:
    """The pages of ``fetch(after, limit)`` up to the last one. Items that change meanwhile may repeat."""
    after = ""
    while True:
        page = await fetch(after, PAGE_SIZE)
        yield page
        after = page.after
        if not after:
            return


async def all_records(store: Store, query: RecordQuery) -> AsyncIterator[TokenRecord]:
    """All records that ``query`` selects, newest first. Raises Unavailable(STORE_UNAVAILABLE)."""
    async for page in all_pages(lambda after, limit: store.records(query, after, limit)):
        for record in page.records:
            yield record
