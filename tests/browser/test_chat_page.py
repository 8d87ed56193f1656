"""The chat page in Chromium against a real server: talk, branch, keep, recover."""

import json
import re
import signal

import pytest
from playwright.sync_api import expect

from tests.browser.watched import answer, ask, choose, conversations, question, stop

pytestmark = pytest.mark.browser


def test_an_answer_streams_stops_and_is_found_again_after_a_reload(open_page):
    page = open_page()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    ask(page, "Tell me about looms")
    text = answer(page).locator(".markdown")
    expect(text).to_have_text(re.compile(r"\S"))
    first = text.inner_text()
    expect(text).not_to_have_text(first)
    assert text.inner_text().startswith(first[: len(first) // 2])
    stop(page)
    expect(answer(page).get_by_text("Stopped.")).to_be_visible()
    kept = text.inner_text()
    page.reload()
    expect(answer(page).locator(".markdown")).to_have_text(kept)
    expect(question(page)).to_contain_text("Tell me about looms")
    expect(conversations(page)).to_have_text(["Tell me about looms"])


def test_a_finished_answer_shows_what_it_took(open_page):
    page = open_page()
    page.keyboard.press("Control+,")
    page.get_by_label("Max tokens").fill("12")
    page.keyboard.press("Escape")
    ask(page, "Hello")
    took = answer(page).get_by_label("What this answer took")
    expect(took).to_contain_text(
        re.compile(r"\d+ in.*12 out.*\d tok/s.*first token [\d.]+ m?s", re.DOTALL)
    )
    expect(answer(page).get_by_text("Stopped at the token limit.")).to_be_visible()
    expect(page.get_by_text("The answer is finished.")).to_be_attached()
    answer(page).get_by_role("button", name="Raise the limit").click()
    expect(page.get_by_role("dialog", name="Settings").get_by_label("Max tokens")).to_have_value(
        "12"
    )


def test_regenerate_edit_and_move_between_branches(open_page):
    page = open_page()
    ask(page, "First wording")
    stop(page)
    first = answer(page).locator(".markdown").inner_text()
    answer(page).get_by_role("button", name="Write another answer").click()
    stop(page)
    expect(answer(page).get_by_role("group", name="Versions")).to_have_text("2/2")
    previous = answer(page).get_by_role("button", name="Previous version")
    previous.click()
    expect(answer(page).locator(".markdown")).to_have_text(first)
    expect(previous).to_be_focused()

    question(page).hover()
    page.get_by_role("button", name="Edit your message").click()
    page.get_by_label("Edit your message").fill("Second wording")
    page.keyboard.press("Enter")
    stop(page)
    expect(question(page)).to_contain_text("Second wording")
    expect(question(page).get_by_role("group", name="Versions")).to_have_text("2/2")
    page.reload()
    expect(question(page)).to_contain_text("Second wording")
    question(page).get_by_role("button", name="Previous version").click()
    expect(question(page)).to_contain_text("First wording")
    expect(answer(page).get_by_role("group", name="Versions")).to_have_text("2/2")
    expect(conversations(page)).to_have_text(["First wording"])


def test_rename_search_delete_undo_export_and_import(open_page):
    page = open_page()
    for words in ("About warp", "About weft"):
        page.keyboard.press("Control+Shift+O")
        expect(page.get_by_role("article")).to_have_count(0)
        ask(page, words)
        stop(page)
    choose(page, "About weft", "Rename")
    page.get_by_label("Title").fill("Crossing threads")
    page.keyboard.press("Enter")
    expect(conversations(page)).to_have_text(["Crossing threads", "About warp"])
    expect(page.get_by_role("heading", level=1)).to_have_text("Crossing threads")

    page.keyboard.press("Control+k")
    page.keyboard.type("ABOUT WEFT")
    expect(conversations(page)).to_have_text(
        [re.compile("Crossing threads.*About weft", re.DOTALL)]
    )
    page.keyboard.press("Escape")
    expect(conversations(page)).to_have_count(2)

    with page.expect_download() as download:
        choose(page, "Crossing threads", "Export as JSON")
    assert download.value.suggested_filename == "crossing-threads.json"
    file = download.value.path()
    exported = json.loads(file.read_text(encoding="utf-8"))
    assert [message["role"] for message in exported["conversations"][0]["messages"]].count(
        "user"
    ) == 1
    with page.expect_download() as download:
        choose(page, "Crossing threads", "Export as Markdown")
    assert (
        download.value.path()
        .read_text(encoding="utf-8")
        .startswith("# Crossing threads\n\n## You\n\nAbout weft\n")
    )

    choose(page, "Crossing threads", "Delete")
    expect(conversations(page)).to_have_text(["About warp"])
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(conversations(page)).to_have_text(["Crossing threads", "About warp"])

    choose(page, "Crossing threads", "Delete")
    expect(conversations(page)).to_have_text(["About warp"])
    page.reload()
    expect(conversations(page)).to_have_text(["About warp"])
    page.get_by_label("File to import").set_input_files(file)
    expect(conversations(page)).to_have_text(["Crossing threads", "About warp"])
    conversations(page).first.click()
    expect(question(page)).to_contain_text("About weft")


def test_a_file_that_holds_no_conversations_is_refused(open_page, tmp_path):
    page = open_page()
    file = tmp_path / "other.json"
    file.write_text('{"format": "other"}', encoding="utf-8")
    page.get_by_label("File to import").set_input_files(file)
    expect(page.get_by_text("other.json was not imported.")).to_be_visible()


def test_text_is_kept_while_the_server_is_away(open_page, server):
    page = open_page()
    ask(page, "Tell me a long story")
    text = answer(page).locator(".markdown")
    expect(text).to_have_text(re.compile(r"\S"))
    server.end(signal.SIGKILL)
    banner = page.get_by_text("The server is away. Your text is kept")
    expect(banner).to_be_visible()
    expect(answer(page).get_by_text("No connection")).to_be_visible()
    assert text.inner_text()

    ask(page, "Are you there?")
    expect(answer(page).get_by_role("button", name="Retry")).to_be_visible()
    expect(question(page)).to_contain_text("Are you there?")
    page.get_by_label("Message", exact=True).fill("Not sent yet")
    server.start()
    expect(banner).to_be_hidden()
    answer(page).get_by_role("button", name="Retry").click()
    stop(page)
    expect(answer(page).get_by_role("group", name="Versions")).to_have_count(0)
    page.reload()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Not sent yet")
    expect(question(page)).to_contain_text("Are you there?")
    expect(answer(page).get_by_text("No connection")).to_have_count(0)


def test_drafts_belong_to_their_conversations(open_page):
    page = open_page()
    ask(page, "One")
    stop(page)
    field = page.get_by_label("Message", exact=True)
    field.fill("for one")
    page.keyboard.press("Control+Shift+O")
    expect(field).to_have_value("")
    field.fill("for a new one")
    conversations(page).first.click()
    expect(field).to_have_value("for one")
    page.go_back()
    expect(field).to_have_value("for a new one")


def test_an_example_leaves_typed_text_alone(open_page):
    page = open_page()
    field = page.get_by_label("Message", exact=True)
    field.fill("half a thought")
    page.get_by_role("button", name="What is the capital of France?").click()
    stop(page)
    expect(question(page)).to_contain_text("What is the capital of France?")
    page.keyboard.press("Control+Shift+O")
    expect(field).to_have_value("half a thought")


def test_two_tabs_do_not_overwrite_each_other(open_page, new_context):
    context = new_context()
    page = open_page(context)
    ask(page, "Shared")
    stop(page)
    other = open_page(context)
    conversations(other).first.click()
    expect(question(other)).to_contain_text("Shared")
    ask(other, "From the other tab")
    stop(other)
    expect(question(page)).to_contain_text("From the other tab")
    choose(page, "Shared", "Rename")
    page.get_by_label("Title").fill("Renamed")
    page.keyboard.press("Enter")
    expect(conversations(other)).to_have_text(["Renamed"])
    ask(page, "From the first tab")
    stop(page)
    for tab in (page, other):
        tab.reload()
        expect(tab.get_by_role("article", name="You")).to_have_text(
            ["Shared", "From the other tab", "From the first tab"]
        )
