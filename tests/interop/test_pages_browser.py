"""The pages in Chromium: what people see, by keyboard, without JavaScript, on a narrow screen, and with axe-core."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Error, Page

from tests.support.pages_pictures import VIEWS, chromium, create_token, every_page, fill, page_of, sign_in
from tests.support.pages_world import PagesWorld, pages_world
from tests.support.tools import AXE_CORE

pytestmark = pytest.mark.heavy
MAX_PAGE_BYTES = 12 * 1024
AXE = AXE_CORE / "node_modules" / "axe-core" / "axe.min.js"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[PagesWorld]:
    async with pages_world(tmp_path, login={"skipChooser": False}) as made:
        yield made


@pytest.fixture
async def browser(require_tool: Any) -> AsyncIterator[Browser]:
    require_tool("chromium")
    async with chromium() as started:
        yield started


async def test_no_page_breaks_a_rule_of_accessibility_or_is_large(
    world: PagesWorld, browser: Browser, require_tool: Any
) -> None:
    require_tool("axe-core")
    await fill(browser, world)
    axe = AXE.read_text(encoding="utf-8")
    found: list[str] = []
    for view, options in VIEWS.items():
        async with page_of(browser, **options) as page:
            errors: list[str] = []
            _collect(page, errors)
            sizes: dict[str, int] = {}
            async for name in every_page(page, world):
                await page.evaluate(axe)
                result = await page.evaluate("tags => axe.run({runOnly: tags, resultTypes: ['violations']})", WCAG)
                for violation in result["violations"]:
                    nodes = [node["html"][:120] for node in violation["nodes"]]
                    found.append(f"{name} {view}: {violation['id']}: {nodes}")
                if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    found.append(f"{name} {view}: scrolls sideways")
                sizes[name] = await _bytes(page, world)
            found += [f"{name} {view}: {size} bytes" for name, size in sizes.items() if size > MAX_PAGE_BYTES]
            # pages that report a mistake have its status, which Chromium writes to the console
            found += [f"{view}: {error}" for error in errors if "status of 4" not in error]
    assert not found, "\n".join(found)


def _collect(page: Page, errors: list[str]) -> None:
    """Append to ``errors`` what the page writes to the console, and errors of its script."""

    def written(message: ConsoleMessage) -> None:
        errors.append(message.text)

    def failed(error: Error) -> None:
        errors.append(str(error))

    page.on("console", written)
    page.on("pageerror", failed)


async def _bytes(page: Page, world: PagesWorld) -> int:
    """The page and all that it loads, as if nothing were cached."""
    names: set[str] = set(await page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)"))
    size: int = await page.evaluate("performance.getEntriesByType('navigation')[0].decodedBodySize")
    assert len(names) == 3, names
    for name in names:
        assert name.startswith(f"{world.url}/oauth2/assets/")
        size += len(await (await page.request.get(name)).body())
    return size


async def test_a_new_person_makes_a_token_ends_the_other_session_and_signs_out(
    world: PagesWorld, browser: Browser
) -> None:
    async with page_of(browser) as there, page_of(browser) as page:
        await sign_in(there, world, "alice")
        world.idp.user = "alice"
        await page.goto(f"{world.url}/oauth2/sign_in")
        await page.get_by_role("link", name="Sign in with Example Corp").click()
        await page.goto(f"{world.url}/oauth2/me")
        await page.get_by_role("navigation").get_by_role("link", name="Tokens").click()
        await page.get_by_label("Name").fill("Laptop")
        await page.get_by_label("Expires").select_option("7")
        await page.get_by_role("button", name="Create token").click()
        token = await page.get_by_label("Token", exact=True).input_value()
        assert token.count(".") == 2
        assert await page.get_by_role("button", name="Copy").is_visible()
        # neither reloading, nor leaving and coming back, shows it or makes another
        await page.reload()
        assert token not in await page.content()
        await page.get_by_role("navigation").get_by_role("link", name="Sessions").click()
        await page.go_back()
        assert token not in await page.content()
        await page.go_back()
        assert token not in await page.content()
        await page.goto(f"{world.url}/oauth2/me/tokens")
        assert await page.get_by_role("link", name="Revoke Laptop").count() == 1
        await page.get_by_role("navigation").get_by_role("link", name="Sessions").click()
        await page.get_by_role("link", name="End session").click()
        await page.get_by_role("button", name="End session").click()
        assert await page.get_by_role("status").inner_text() == "The session was ended."
        await there.reload()
        assert await there.get_by_role("heading", name="Hello").count() == 0
        await page.get_by_role("link", name="Sign out").click()
        await page.get_by_role("heading", name="Signed out").wait_for()
        await page.go_back()
        assert await page.get_by_text("alice").count() == 0
        assert "Laptop" not in await page.content()


async def test_everything_works_without_script(world: PagesWorld, browser: Browser) -> None:
    async with page_of(browser, java_script_enabled=False) as page:
        await sign_in(page, world, "alice")
        await create_token(page, world, "Laptop")
        assert await page.get_by_label("Token", exact=True).input_value()
        assert not await page.get_by_role("button", name="Copy").is_visible()
        await page.goto(f"{world.url}/oauth2/me/tokens")
        await page.get_by_role("link", name="Revoke Laptop").click()
        await page.get_by_role("button", name="Revoke").click()
        assert "was revoked" in await page.get_by_role("status").inner_text()
        await page.get_by_role("link", name="Sign out").click()
        await page.get_by_role("heading", name="Signed out").wait_for()


async def test_everything_works_by_keyboard(world: PagesWorld, browser: Browser) -> None:
    async with page_of(browser) as page:
        await sign_in(page, world, "alice")
        await page.goto(f"{world.url}/oauth2/me/tokens")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to content"
        await page.keyboard.press("Enter")
        for _ in range(20):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.id") == "name":
                break
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        await page.keyboard.type("Laptop")
        await page.keyboard.press("Enter")
        await page.get_by_text("Copy it now").wait_for()


async def test_the_fragment_survives_the_login(world: PagesWorld, browser: Browser) -> None:
    async with page_of(browser) as page:
        world.idp.user = "alice"
        await page.goto(f"{world.url}/deep/path?x=1#part")
        await page.get_by_role("link", name="Sign in with Example Corp").click()
        assert page.url == f"{world.url}/deep/path?x=1#part"


async def test_a_page_of_the_upstream_can_neither_read_nor_use_the_pages(world: PagesWorld, browser: Browser) -> None:
    async with page_of(browser) as page:
        await sign_in(page, world, "alice")
        # a script on the origin of the upstream, which may have been written by another user
        await page.goto(f"{world.url}/page-of-the-upstream")
        status = await page.evaluate("async path => (await fetch(path)).status", "/oauth2/me/tokens")
        assert status == 403
        framed = await page.evaluate(
            """path => new Promise((resolve) => {
                const frame = document.createElement("iframe");
                frame.onload = () => resolve(Boolean(frame.contentDocument && frame.contentDocument.forms.length));
                frame.src = path;
                document.body.append(frame);
            })""",
            "/oauth2/me/tokens",
        )
        assert framed is False
        async with page.context.expect_page() as opened:
            await page.evaluate("path => { globalThis.popup = window.open(path); }", "/oauth2/me/tokens")
        await (await opened.value).wait_for_load_state()
        assert await (await opened.value).get_by_role("button", name="Create token").is_visible()
        assert await page.evaluate("globalThis.popup.closed") is True, "the opener still has a reference"
