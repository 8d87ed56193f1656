"""What a test does on the chat page, and what the page must never do."""

import re

from playwright.sync_api import ConsoleMessage, Locator, Page, expect

# The browser's own line for a response or connection that fails, whatever the page makes of it.
FAILED_LOAD = re.compile(r"Failed to load resource|net::ERR_")


class Watched:
    """Records errors and requests of a page."""

    def __init__(self, page: Page, url: str):
        self._url = url
        self._errors: list[str] = []
        self._addresses: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.on("request", lambda request: self._addresses.append(request.url))

    def check(self) -> None:
        """Fail if the page logged an error (CSP violations are errors) or asked another host."""
        assert not self._errors
        assert self._addresses
        outside = [
            url
            for url in self._addresses
            if not url.startswith((self._url + "/", "blob:", "data:"))
        ]
        assert not outside

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not FAILED_LOAD.search(message.text):
            self._errors.append(message.text)


def ask(page: Page, text: str) -> None:
    """Send a message with the keyboard."""
    field = page.get_by_label("Message", exact=True)
    field.fill(text)
    field.press("Enter")


def stop(page: Page) -> None:
    """Stop the answer, once it has words."""
    expect(answer(page).locator(".markdown")).to_have_text(re.compile(r"\S"))
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def answer(page: Page) -> Locator:
    """Return the last answer."""
    return page.get_by_role("article", name="Answer").last


def question(page: Page) -> Locator:
    """Return the last message of the user."""
    return page.get_by_role("article", name="You").last


def conversations(page: Page) -> Locator:
    """Return the entries of the list."""
    return page.get_by_role("navigation", name="Conversations").get_by_role("link")


def choose(page: Page, title: str, action: str) -> None:
    """Choose from the menu of a conversation in the list."""
    page.get_by_role("navigation").get_by_text(title).hover()
    page.get_by_role("button", name=f"Actions for {title}").click()
    page.get_by_role("menuitem", name=action).click()


def width_of_content(page: Page) -> int:
    """Return how wide the document is: more than the window means sideways scrolling."""
    return page.evaluate("document.documentElement.scrollWidth")
