"""Pictures of the pages, made from a running sidecar.

``python -m tests.support.pages_pictures docs/guides/pages`` makes those of the guide, ``--all`` every page in every
view.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.support.pages_world import PagesWorld, pages_world
from tests.support.tools import find

TITLE = "Metadata"
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1100, "height": 760}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1100, "height": 760}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 760}},
}
DOCUMENTED = ("sign-in-light", "new-token-light", "sessions-light", "all-tokens-dark")
ACCOUNT_PAGES = {"account": "/me", "tokens": "/me/tokens", "sessions": "/me/sessions"}
ADMIN_PAGES = {
    "status": "/admin",
    "all-tokens": "/admin/tokens",
    "all-sessions": "/admin/sessions",
    "revocations": "/admin/revocations",
}


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Chromium without a window."""
    program = find("chromium")
    assert program is not None
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(program),
            args=["--no-sandbox", "--lang=en-US"],
            # the back button then shows what it shows to people
            ignore_default_args=["--disable-back-forward-cache"],
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def page_of(browser: Browser, **view: Any) -> AsyncIterator[Page]:
    """A page in a browser of its own."""
    context: BrowserContext = await browser.new_context(locale="en-US", timezone_id="UTC", **view)
    try:
        yield await context.new_page()
    finally:
        await context.close()


async def sign_in(page: Page, world: PagesWorld, user: str) -> None:
    """Log in as ``user`` and open the account page."""
    world.idp.user = user
    await page.goto(f"{world.url}/oauth2/start?provider=corp&rd=/oauth2/me")
    assert page.url == f"{world.url}/oauth2/me", page.url


async def create_token(page: Page, world: PagesWorld, name: str, description: str = "") -> None:
    """Create a token, and stay on the page that shows it."""
    await page.goto(f"{world.url}/oauth2/me/tokens")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Description").fill(description)
    await page.get_by_role("button", name="Create token").click()
    await page.get_by_text("Copy it now").wait_for()


async def every_page(page: Page, world: PagesWorld) -> AsyncIterator[str]:
    """Open every page in turn, and yield its name."""
    await page.goto(f"{world.url}/oauth2/sign_in")
    yield "sign-in"
    await page.goto(f"{world.url}/oauth2/callback/corp?state=x")
    yield "error"
    await page.goto(f"{world.url}/oauth2/signed_out")
    yield "signed-out"
    await sign_in(page, world, "root")
    for name, path in (ACCOUNT_PAGES | ADMIN_PAGES).items():
        await page.goto(f"{world.url}/oauth2{path}")
        yield name
    await create_token(page, world, "Laptop", "For the command line")
    yield "new-token"
    await page.goto(f"{world.url}/oauth2/me/tokens")
    await page.get_by_role("link", name="Revoke Laptop").first.click()
    yield "revoke"
    await page.goto(f"{world.url}/oauth2/me/sessions")
    await page.get_by_role("link", name="End session").last.click()
    yield "end-session"
    await page.goto(f"{world.url}/oauth2/sign_out")
    yield "sign-out"


async def fill(browser: Browser, world: PagesWorld) -> None:
    """What a service in use has: sessions and tokens of several people."""
    world.idp.groups = ["data-engineering", "analytics", "on-call"]
    for user in ("maria", "root"):
        async with page_of(browser) as page:
            await sign_in(page, world, user)
            await create_token(page, world, "Nightly import", "Runs on the build server")


async def take(folder: Path, names: Container[str] = "") -> None:
    """Write the pictures called ``names`` into ``folder``; empty: all of them."""
    with tempfile.TemporaryDirectory() as scratch:
        blocks = {"login": {"page": {"title": TITLE, "message": "Use your company account."}, "skipChooser": False}}
        async with pages_world(Path(scratch), **blocks) as world, chromium() as browser:
            await fill(browser, world)
            for view, options in VIEWS.items():
                async with page_of(browser, **options) as page:
                    async for name in every_page(page, world):
                        if not names or f"{name}-{view}" in names:
                            await page.screenshot(path=str(folder / f"{name}-{view}.png"), full_page=True)


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1]), "" if "--all" in sys.argv else DOCUMENTED))
