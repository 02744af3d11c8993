"""A real browser for the tests of the console: Debian's Chromium, driven over its own protocol.

What the page writes to the browser's console, what it throws and what it asks of strangers is all noted; a test ends
by saying that there was nothing of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib import resources
from typing import Any, Final, Literal, NamedTuple

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page, Request, sync_playwright

from tests.support.programs import require

PATIENCE: Final = 15_000
"""Milliseconds for which a test waits until the page shows something."""
_AXE: Final = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
_AXE_TAGS: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class Size(NamedTuple):
    """Of the window, in CSS pixels."""

    width: int
    height: int


DESK: Final = Size(1440, 900)
PHONE: Final = Size(390, 844)


class Watched:
    """A page, and everything that it complained of."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self._origin = origin
        page.on("console", self._on_console)
        page.on("pageerror", self._on_error)
        page.on("dialog", self._on_dialog)
        page.on("request", self._on_request)

    def violations(self) -> list[str]:
        """What axe, the accessibility checker, has against the page as it stands."""
        found: dict[str, Any] = self.page.evaluate(
            "tags => axe.run(document, { runOnly: { type: 'tag', values: tags } })", _AXE_TAGS
        )
        assert found["passes"], "axe has looked at nothing"
        return [f"{each['id']}: {node['html'][:200]}" for each in found["violations"] for node in each["nodes"]]

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _on_error(self, error: Error) -> None:
        self.complaints.append(f"thrown: {error}")

    def _on_dialog(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self._origin, "data:")):
            self.complaints.append(f"asks a stranger: {request.url}")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium without a window; without its sandbox where the tests run as root, which it refuses otherwise."""
    program = require("chromium", "chromium")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def watched(
    browser: Browser, address: str, *, size: Size = DESK, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Watched]:
    """A fresh page of a fresh profile, before it has gone anywhere; *address* is the admin port's host:port."""
    context = browser.new_context(
        base_url=f"http://{address}",
        viewport={"width": size.width, "height": size.height},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    try:
        context.set_default_timeout(PATIENCE)
        context.add_init_script(_AXE)  # past the page's policy, which forbids what is not the gateway's own
        yield Watched(context.new_page(), f"http://{address}")
    finally:
        context.close()
