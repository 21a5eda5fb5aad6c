"""A real Chromium, driven by Playwright."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

# Programs run as root in containers, where Chromium's sandbox cannot be set up.
_ARGUMENTS = ("--no-sandbox",)
# Playwright switches the back/forward cache off, which persons have.
_NOT = ("--disable-back-forward-cache",)


@asynccontextmanager
async def chromium(program: Path) -> AsyncIterator[Browser]:
    """Chromium without a window. Contexts of it are persons: each has cookies of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=list(_ARGUMENTS), ignore_default_args=list(_NOT), chromium_sandbox=False
        )
        try:
            yield browser
        finally:
            await browser.close()
