"""Paged lists are read to their end, with the cursor of each page."""

from sidecar.store.base import Page
from sidecar.store.pages import PAGE_SIZE, all_pages


async def test_every_page_is_read_once_with_the_cursor_of_the_one_before() -> None:
    """An empty page with a cursor is not the end: its items may have been removed meanwhile."""
    pages = {"": Page(after="1"), "1": Page(after="2", total=7), "2": Page()}
    requests: list[tuple[str, int]] = []

    async def fetch(after: str, limit: int) -> Page:
        requests.append((after, limit))
        return pages[after]

    assert [page async for page in all_pages(fetch)] == list(pages.values())
    assert requests == [(after, PAGE_SIZE) for after in pages]
