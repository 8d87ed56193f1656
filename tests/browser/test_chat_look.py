"""How the chat page looks and is operated: accessibility, colours, a phone, settings."""

import json
import re
import subprocess
import sys
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ROOT, ServerProcess
from tests.browser.watched import answer, ask, conversations, stop, width_of_content

pytestmark = pytest.mark.browser

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
RICH = (
    """\
Some `code` and a [link](https://example.org).

```python
def double(number: int) -> int:
    return 2 * number
```

The sum $a^2 + b^2 = c^2$ and

$$
x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}
$$

| Planet | Radius | Remark |
|---|--:|---|
| Jupiter | 69,911 | The largest of them all, and by far, as one sees from the number |

![A picture](https://example.org/picture.png) <img src="https://example.org/raw.png">

"""
    + "unbroken" * 40
)


@pytest.fixture
def rich_file(tmp_path) -> Path:
    common = {"conversationId": "c", "createdAt": 1, "updatedAt": 1, "state": "done"}
    messages = [
        {"id": "q", "parentId": None, "role": "user", "content": "Show me everything", **common},
        {
            "id": "a",
            "parentId": "q",
            "role": "assistant",
            "content": RICH,
            "reasoning": "First, I think.",
            **common,
        },
    ]
    conversation = {
        "id": "c", "title": "A rich answer with a title too long for the list", "systemPrompt": "",
        "leafId": "a", "createdAt": 1, "updatedAt": 1, "messages": messages,
    }  # fmt: skip
    file = tmp_path / "rich.json"
    content = {"format": "heddle.conversations", "version": 1, "conversations": [conversation]}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def open_rich(page: Page, file: Path) -> None:
    """Import the rich answer and open it."""
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("1 of 1 conversations added")).to_be_visible()
    page.evaluate("location.hash = 'c'")
    expect(answer(page).locator("math")).to_have_count(2)
    expect(answer(page).locator(".hljs-keyword")).not_to_have_count(0)
    page.get_by_role("button", name="Dismiss").click()


def check_with_axe(page: Page) -> None:
    """Fail on any violation that axe-core finds."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run().then((result) => result.violations)")
    found = [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations]
    assert not found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("settings", [{}, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(open_page, rich_file, scheme, settings):
    page = open_page(color_scheme=scheme, reduced_motion="reduce", **settings)
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    check_with_axe(page)
    open_rich(page, rich_file)
    answer(page).get_by_text("Thinking").click()
    check_with_axe(page)
    if settings:
        page.get_by_role("button", name="Open the list of conversations").click()
        check_with_axe(page)
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_role("dialog", name="Settings")).to_be_visible()
    check_with_axe(page)


def test_a_rich_answer_is_typeset_and_loads_nothing(open_page, rich_file):
    page = open_page()
    open_rich(page, rich_file)
    text = answer(page)
    expect(text.locator("img")).to_have_count(0)
    expect(text.get_by_role("link", name="Image: A picture")).to_have_attribute(
        "rel", "noopener noreferrer"
    )
    expect(text.get_by_text('<img src="https://example.org/raw.png">')).to_be_visible()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text.get_by_role("button", name="Copy", exact=True).click()
    expect(text.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith(
        "def double(number: int) -> int:\n    return"
    )


def test_on_a_phone_nothing_scrolls_sideways_and_the_list_is_a_drawer(open_page, rich_file):
    page = open_page(**PHONE)
    open_rich(page, rich_file)
    assert width_of_content(page) == 390
    expect(conversations(page)).to_have_count(0)
    page.get_by_role("button", name="Open the list of conversations").click()
    drawer = page.get_by_role("dialog", name="Conversations")
    drawer.get_by_role("button", name="New conversation").click()
    expect(drawer).to_be_hidden()
    page.get_by_label("Message", exact=True).fill("Hello")
    page.get_by_role("button", name="Send", exact=True).click()
    stop(page)
    assert width_of_content(page) == 390


def test_the_theme_follows_the_system_until_one_is_chosen(open_page):
    page = open_page(color_scheme="dark")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(background) == "rgb(21, 24, 28)"
    page.keyboard.press("Control+,")
    page.get_by_text("Light", exact=True).click()
    assert page.evaluate(background) == "rgb(245, 244, 240)"
    page.reload()
    assert page.evaluate(background) == "rgb(245, 244, 240)"


def test_settings_are_sent_kept_and_reset(open_page):
    page = open_page()
    page.keyboard.press("Control+,")
    page.get_by_label("For every conversation").fill("Speak of yarn.")
    page.get_by_label("Temperature").fill("1.5")
    page.get_by_label("Top k").fill("7")
    page.get_by_label("Seed").fill("3")
    page.get_by_label("Stop strings, one a line").fill("END\nFIN")
    page.reload()
    with page.expect_request("**/v1/chat/completions") as caught:
        ask(page, "Hello")
    body = caught.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "Speak of yarn."}
    assert (body["temperature"], body["top_k"], body["seed"], body["stop"]) == (
        1.5,
        7,
        3,
        ["END", "FIN"],
    )
    stop(page)
    page.keyboard.press("Control+,")
    page.get_by_label("For this conversation only").fill("Speak of rope.")
    page.get_by_role("button", name="Reset prompt and sampling").click()
    expect(page.get_by_label("For every conversation")).to_have_value("")
    page.keyboard.press("Escape")
    with page.expect_request("**/v1/chat/completions") as caught:
        ask(page, "Again")
    body = caught.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "Speak of rope."}
    assert "top_k" not in body
    stop(page)


def test_the_keyboard_reaches_everything(open_page):
    page = open_page()
    field = page.get_by_label("Message", exact=True)
    expect(field).to_be_focused()
    page.get_by_role("link", name="Skip to the message field").focus()
    page.keyboard.press("Enter")
    expect(field).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(field).to_have_value("one\ntwo")
    field.blur()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(field).to_be_focused()
    page.keyboard.press("Control+k")
    expect(page.get_by_label("Search the conversations")).to_be_focused()


def test_scrolling_up_stops_following_the_answer(open_page):
    page = open_page(viewport={"width": 1280, "height": 480})
    ask(page, "Write a lot")
    box = page.locator(".box")
    while box.evaluate("(element) => element.scrollTop") < 200:
        page.wait_for_timeout(50)
    box.hover()
    page.mouse.wheel(0, -150)
    latest = page.get_by_role("button", name="Jump to latest")
    expect(latest).to_be_visible()
    top = box.evaluate("(element) => element.scrollTop")
    before = answer(page).locator(".markdown").inner_text()
    expect(answer(page).locator(".markdown")).not_to_have_text(before)
    assert box.evaluate("(element) => element.scrollTop") == top
    latest.click()
    expect(latest).to_be_hidden()
    stop(page)


def test_a_server_with_keys_asks_for_one(open_page, wordy_folder, tmp_path):
    server = ServerProcess(str(wordy_folder), "--keys", data=tmp_path)
    server.start()
    try:
        page = open_page(url=server.url)
        dialog = page.get_by_role("dialog", name="API key")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        ask(page, "Hello")
        expect(answer(page).get_by_text("This server asks for an API key")).to_be_visible()
        dialog.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog.get_by_text("The server does not know this key.")).to_be_visible()
        command = [sys.executable, "-m", "heddle", "keys", "create", "page"]
        environment = {"PATH": "", "HEDDLE_DATA": str(tmp_path)}
        created = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        dialog.get_by_label("API key").fill(created.stdout.split()[-1])
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        stop(page)
        expect(answer(page).locator(".markdown")).to_have_text(re.compile(r"\S"))
    finally:
        server.end()


@pytest.mark.model
def test_the_default_model_knows_the_capital_of_france(open_page, tmp_path):
    server = ServerProcess(data=tmp_path)
    server.start()
    try:
        page = open_page(url=server.url)
        page.get_by_role("button", name="What is the capital of France?").click()
        expect(answer(page).get_by_label("What this answer took")).to_be_visible(timeout=60_000)
        expect(answer(page).locator(".markdown")).to_contain_text("Paris")
    finally:
        server.end()
