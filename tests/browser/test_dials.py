"""Think dial, alignment, an answer's cost and its colours, against a tiny adaptive model."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.adaptive import MAX_LOOPS, save_adaptive
from tests.browser.conftest import ServerProcess
from tests.browser.test_chat_look import PHONE, check_with_axe
from tests.browser.watched import answer, ask, stop, width_of_content

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory) -> Iterator[ServerProcess]:
    folder = save_adaptive(tmp_path_factory.mktemp("adaptive") / "model")
    process = ServerProcess(str(folder), data=tmp_path_factory.mktemp("data"))
    process.start()
    yield process
    process.end()


def dial(page: Page):
    return page.get_by_role("button", name=re.compile("Think: "))


def sent(page: Page, text: str) -> dict:
    """Send a message, stop the answer and return the request's body."""
    with page.expect_request("**/v1/chat/completions") as caught:
        ask(page, text)
    stop(page)
    return caught.value.post_data_json


def test_the_keyboard_turns_the_dials(open_page, adaptive):
    page = open_page(url=adaptive.url)
    expect(dial(page)).to_have_text("Think: off")
    assert sent(page, "As it is")["think"] == {"loops": 1}

    dial(page).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("radio", name="Off")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text(f"up to {MAX_LOOPS} times")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    expect(page.get_by_role("slider", name="Loops")).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    expect(page.get_by_role("slider", name="Alignment")).to_be_focused()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    expect(dial(page)).to_be_focused()
    turned = f"Think: {MAX_LOOPS - 1} loops · factual 0.50"
    expect(dial(page)).to_have_text(turned)

    page.reload()
    expect(dial(page)).to_have_text(turned)
    body = sent(page, "Deep and factual")
    assert body["think"] == {"loops": MAX_LOOPS - 1} and body["include"] == ["routing"]
    assert body["alignment"] == pytest.approx(-0.5)


def test_an_answer_shows_its_cost_and_its_colours(open_page, adaptive):
    page = open_page(url=adaptive.url)
    dial(page).click()
    page.get_by_role("radio", name="Auto").check(force=True)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+,")
    page.get_by_label("Max tokens").fill("40")
    expect(page.get_by_text("The dial beside the message field")).to_be_visible()
    page.keyboard.press("Escape")
    ask(page, "Hello")
    took = answer(page).get_by_label("What this answer took")
    expect(took).to_contain_text(
        re.compile(r"[\d.]+ loops.*[\d.]+ [MG]FLOP.*\d+% of deepest", re.DOTALL)
    )
    text = answer(page).locator(".markdown").inner_text().split()

    colours = answer(page).get_by_role("group", name="Colour by")
    colours.get_by_role("radio", name="Depth").check(force=True)
    legend = answer(page).locator("figcaption li")
    expect(legend).to_have_count(5)
    counts = [int(re.search(r"\((\d+)", each)[1]) for each in legend.all_inner_texts()]
    assert sum(counts) == 40 and sum(count > 0 for count in counts) > 1
    tokens = answer(page).locator("figure p span")
    expect(tokens).to_have_count(40)
    expect(tokens.first).to_have_attribute("title", re.compile(r"\d+ loops? · \w+ \d+%"))
    assert set("".join(text)) <= set("".join(tokens.all_text_contents()))

    colours.get_by_role("radio", name="Depth").press("ArrowRight")
    expect(legend).to_contain_text(["factual", "spatial", "symbolic", "creative", "safety"])
    page.reload()
    expect(answer(page).locator("figcaption")).to_contain_text("Heaviest cluster")
    colours.get_by_role("radio", name="Text").check(force=True)
    expect(answer(page).locator(".markdown")).to_be_visible()


@pytest.mark.parametrize(("scheme", "settings"), [("light", {}), ("dark", PHONE)])
def test_dials_and_colours_pass_axe(open_page, adaptive, scheme, settings):
    page = open_page(url=adaptive.url, color_scheme=scheme, reduced_motion="reduce", **settings)
    dial(page).click()
    page.get_by_role("radio", name="Exact").check(force=True)
    check_with_axe(page)
    page.keyboard.press("Escape")
    page.get_by_label("Message", exact=True).fill("Hello")
    page.get_by_role("button", name="Send", exact=True).click()
    stop(page)
    for colour in ("Depth", "Clusters"):
        answer(page).get_by_role("radio", name=colour).check(force=True)
        check_with_axe(page)
    if settings:
        assert width_of_content(page) <= settings["viewport"]["width"]


def test_a_dense_model_has_no_dial_and_says_why(open_page):
    page = open_page()
    body = sent(page, "Hello")
    assert not {"think", "alignment", "include"} & body.keys()
    expect(dial(page)).to_have_count(0)
    expect(answer(page).get_by_role("group", name="Colour by")).to_have_count(0)
    page.keyboard.press("Control+,")
    expect(page.get_by_text("There is no think dial: wordy0 is dense")).to_be_visible()
