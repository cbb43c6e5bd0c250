"""The review of copies as a person meets it: chromium, a real server, a real home, and what follows on the disk."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from simile.dedup.records import Decision
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import Copies, app_client
from tests.support import forking
from tests.support.browser import opened, serving

OFFLINE = "ERR_INTERNET_DISCONNECTED"  # what chromium's console says of the test that asks for it


LOOK = {"expected": [OFFLINE], "viewport": {"width": 1400, "height": 900}, "accept_downloads": True}


@pytest.fixture
def page(browser: Any, copies: Copies) -> Iterator[Any]:
    """A page of copies of one's own, to decide on them."""
    with serving(copies.settings) as address, opened(browser, address, **LOOK) as page:
        yield page


@pytest.fixture(scope="module")
def shared_service(shared_copies: Copies) -> Iterator[str]:
    with serving(shared_copies.settings) as address:
        yield address


@pytest.fixture
def shared_page(browser: Any, shared_service: str) -> Iterator[Any]:
    """A page of copies that are shared, to look at them."""
    with opened(browser, shared_service, **LOOK) as page:
        yield page


@pytest.fixture
def client(copies: Copies) -> Iterator[TestClient]:
    with app_client(copies.settings) as client:
        yield client


def press(page: Any, key: str) -> None:
    """A key, and what follows from it."""
    before = page.url + page.inner_text("main")
    page.keyboard.press(key)
    page.wait_for_function(
        "before => location.href + document.querySelector('main').innerText !== before", arg=before, timeout=10_000
    )
    page.wait_for_function("() => !document.querySelector('main[aria-busy=true]')")


def names(page: Any) -> list[str]:
    """The two files that are shown, the kept one first."""
    return [each.inner_text() for each in page.locator(".side:not(.between) .file b").all()]


def fates(page: Any) -> list[str]:
    return [each.inner_text() for each in page.locator(".side:not(.between) .fate").all()]


def go_to(page: Any, case: str) -> None:
    """Steps on until the pair of this image is shown."""
    while case not in names(page):
        press(page, "j")


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file below a folder: hash and time."""
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def simile(*arguments: object) -> dict[str, Any]:
    """A command as a person runs it, and its JSON."""
    run = subprocess.run(
        [forking.SIMILE, "dedup", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert run.returncode == 0, run.stderr
    body: dict[str, Any] = json.loads(run.stdout)
    return body


def decisions(copies: Copies) -> list[Decision]:
    with Catalogue(Home(copies.settings.home)) as catalogue:
        return [
            Decision(one.first_sha256, one.second_sha256, one.same, one.keep_sha256)
            for one in catalogue.duplicates.get_decisions()
        ]


def test_ten_groups_are_decided_by_keyboard_exported_applied_and_undone(
    page: Any, copies: Copies, tmp_path: Path
) -> None:
    before = tree(copies.photos)
    page.goto("/duplicates?tier=near")
    assert page.inner_text(".progress p") == "0 decided · 11 to go"
    for key in "yynyyknyy":  # 01 to 09: 03 and 07 are different, of 06 the smaller one is kept
        press(page, key)
        if key == "k":
            assert names(page)[0] == "06.jpg" and fates(page) == ["Kept", "Would be removed"]
            press(page, "j")
    press(page, "Y")  # both copies of 00
    page.get_by_role("heading", name="Everything is decided").wait_for()
    assert page.inner_text(".progress p") == "11 decided · 0 to go"
    with page.expect_download() as download:
        page.keyboard.press("e")
    download.value.save_as(tmp_path / "plan.json")

    applied = simile("apply", tmp_path / "plan.json", "--move-to", tmp_path / "away", "--home", copies.settings.home)
    gone = {f"phone/{name}.jpg" for name in ("00", "00 again", "01", "02", "04", "05", "08", "09")} | {"camera/06.png"}
    assert applied["applied"] == 9 and applied["set_aside"] == []
    assert tree(copies.photos) == {path: facts for path, facts in before.items() if path not in gone}
    simile("undo", "--home", copies.settings.home)
    assert tree(copies.photos) == before


def test_the_last_decisions_are_undone_one_by_one_even_after_looking_elsewhere(page: Any, copies: Copies) -> None:
    page.goto("/duplicates?tier=near")
    first = names(page)
    press(page, "y")
    second = names(page)
    press(page, "n")
    press(page, "ArrowUp")
    assert len(decisions(copies)) == 2
    press(page, "u")
    assert names(page) == second and [one.same for one in decisions(copies)] == [True]
    press(page, "u")
    assert names(page) == first and decisions(copies) == []
    page.keyboard.press("u")
    page.get_by_role("alert").wait_for()
    assert "no answer" in page.inner_text(".toast")


def test_a_long_group_is_decided_member_by_member(page: Any, copies: Copies) -> None:
    page.goto("/duplicates?tier=near")
    go_to(page, "00.jpg")
    states = lambda: [each.get_attribute("class") for each in page.locator(".members li").all()]  # noqa: E731
    assert states() == ["kept", "open", "open"] and names(page) == ["00.png", "00.jpg"]
    press(page, "y")
    assert states() == ["kept", "same", "open"] and names(page) == ["00.png", "00 again.jpg"]
    press(page, "n")
    page.go_back()
    page.locator(".members").wait_for()
    assert states() == ["kept", "same", "different"]
    page.locator(".members a").nth(2).click()
    page.locator(".said.different").wait_for()
    assert fates(page) == ["Kept", "Stays"] and "not shown again" in page.inner_text(".outcome")
    page.get_by_role("button", name="Take back").click()
    page.wait_for_function(
        "() => document.querySelector('.members').innerText.indexOf('?') < 0 && !document.querySelector('.said')"
    )
    assert states() == ["kept", "same", "open"]


def test_choosing_another_keeper_of_a_long_group_turns_all_its_pairs(page: Any) -> None:
    page.goto("/duplicates?tier=near")
    go_to(page, "00.jpg")
    press(page, "k")
    assert names(page) == ["00.jpg", "00.png"] and "decided by a user" in page.inner_text(".outcome")
    press(page, "j")
    assert names(page) == ["00.jpg", "00 again.jpg"]  # they match directly
    assert fates(page) == ["Kept", "Would be removed"]
    press(page, "y")
    page.go_back()
    page.locator(".said.same").wait_for()
    assert fates(page) == ["Kept", "Would be removed"]


def test_what_differs_and_blinking_are_a_key_away(shared_page: Any) -> None:
    page = shared_page
    page.goto("/duplicates?tier=near")
    between = page.locator(".between img")
    assert not between.is_visible()
    page.keyboard.press("d")
    assert between.is_visible()
    assert between.evaluate("async (image) => { await image.decode(); return image.naturalWidth }") == 48
    press(page, "j")
    assert page.locator(".between img").is_visible()  # it stays on
    page.keyboard.press("b")
    page.locator(".blinking .over.lit").wait_for()
    assert not page.locator(".between img").is_visible()
    page.locator(".blinking .over:not(.lit)").wait_for(state="attached")
    page.keyboard.press("b")
    assert page.locator(".blinking").count() == 0
    page.keyboard.press("?")
    assert page.locator("dialog.keys").is_visible()
    page.keyboard.press("y")  # means nothing behind the list of keys
    page.keyboard.press("Escape")
    assert page.inner_text(".progress p").startswith("0 decided")


def test_the_threshold_moves_the_list_and_finds_back(shared_page: Any) -> None:
    page = shared_page
    page.goto("/duplicates?tier=near")
    page.locator(".tune summary").click()
    slider = page.locator(".tune input[type=range]")
    slider.evaluate("(range) => { range.value = 0.105; range.dispatchEvent(new Event('change', { bubbles: true })) }")
    page.wait_for_url("**threshold=*")
    page.wait_for_function("() => document.querySelector('.place')?.innerText === '1 / 1'")
    assert names(page) == ["00.png", "00.jpg"]
    page.get_by_role("link", name="back to the run's own").click()
    page.wait_for_function("() => document.querySelector('.place')?.innerText === '1 / 10'")


def test_tabs_lead_to_each_tier(page: Any, copies: Copies) -> None:
    page.goto("/")
    page.get_by_role("link", name="Duplicates").click()
    page.get_by_role("link", name="Same bytes 2").click()
    page.wait_for_url("**tier=bytes*")
    page.wait_for_function("() => document.querySelector('.tier')?.innerText === 'Same bytes'")
    assert page.locator(".answers").count() == 0 and fates(page) == ["Kept", "Would be removed"]
    with page.expect_download() as download:
        page.keyboard.press("e")
    assert len(json.loads(Path(download.value.path()).read_text())["removals"]) == 2
    page.get_by_role("link", name="Similar 1").click()
    page.wait_for_function("() => document.querySelector('.tier')?.innerText === 'Only similar'")
    assert fates(page) == ["Stays", "Stays"]
    page.keyboard.press("y")
    page.get_by_role("heading", name="Everything is decided").wait_for()
    assert [one.same for one in decisions(copies)] == [True]


def test_nothing_scrolls_sideways_and_the_buttons_stay_in_reach_on_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/duplicates?tier=near")
    for key in ("j", "n"):
        press(page, key)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        box = page.get_by_role("button", name="Same").bounding_box()
        assert box["y"] + box["height"] <= 740
    page.goto("/duplicates?tier=bytes")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_server_that_is_gone_is_explained_and_nothing_is_lost(shared_page: Any, shared_copies: Copies) -> None:
    page = shared_page
    page.goto("/duplicates?tier=near")
    shown = names(page)
    page.context.set_offline(True)
    page.evaluate("document.querySelector('[data-key=y]').click()")
    page.get_by_role("alert").wait_for()
    assert "can't be reached" in page.inner_text(".toast") and names(page) == shown
    assert decisions(shared_copies) == []


def test_the_review_works_without_javascript(browser: Any, copies: Copies) -> None:
    with serving(copies.settings) as address, opened(browser, address, java_script_enabled=False) as page:
        page.goto("/duplicates?tier=near")
        first = names(page)
        page.get_by_role("button", name="Same").click()
        assert names(page) != first and page.inner_text(".progress p") == "1 decided · 10 to go"
        page.get_by_role("button", name="Undo").click()
        assert names(page) == first and decisions(copies) == []
        page.get_by_role("button", name="Keep the other").click()
        assert names(page) == first[::-1]
        page.locator("label[for=difference]").click()
        assert page.locator(".between img").is_visible()
        page.get_by_role("link", name="Next").click()
        assert names(page) != first


def test_the_list_stays_while_others_write(client: TestClient, copies: Copies) -> None:
    """A change that has nothing to do with copies, or another person's answer, must not move the list."""
    page = client.get("/duplicates?tier=near").text
    following = page.split('data-key="ArrowDown j"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    pair = {"first": copies.ids["camera/01.png"], "second": copies.ids["phone/01.jpg"], "same": False}
    client.post("/v1/duplicates/decisions", json={"decisions": [pair]})
    later = client.get(following).text
    assert "2 / 10" in later and "<strong>1</strong> decided" in later
    assert "1 / 9" in client.get("/duplicates?tier=near").text  # opened again, it is of now


def test_what_was_called_different_is_listed_as_decided_and_can_be_thought_over(
    client: TestClient, copies: Copies
) -> None:
    pair = {"first": copies.ids["camera/01.png"], "second": copies.ids["phone/01.jpg"], "same": False}
    client.post("/v1/duplicates/decisions", json={"decisions": [pair]})
    page = client.get("/duplicates?tier=near&show=decided").text
    assert "1 / 1" in page and "You said: different" in page and "01.jpg" in page
    action = page.split('" method="post" class="answers"')[0].rsplit('action="', 1)[1].replace("&amp;", "&")
    asked = {"first": pair["first"], "second": pair["second"]}
    changed = client.post(action, data=asked | {"answer": "same"}).text
    assert "You said: same" in changed and "Would be removed" in changed
    taken_back = client.post(action, data=asked | {"answer": "open"}).text
    assert "You said" not in taken_back
    assert decisions(copies) == []


def test_decisions_that_make_no_sense_change_nothing(client: TestClient, copies: Copies) -> None:
    group = client.get("/v1/duplicates?tier=near").json()["groups"][0]
    address, ids = f"/duplicates?tier=near&group={group['id']}", [one["image_id"] for one in group["members"]]
    right = {"first": ids[0], "second": ids[1], "answer": "same"}
    for wrong, status in (
        ({**right, "answer": "perhaps"}, 422),
        ({**right, "second": copies.ids["camera/09.png"]}, 409),
        ({**right, "second": "x"}, 409),
        ({"answer": "undo", "undo": "4242-4243-same"}, 404),
        ({"answer": "undo", "undo": "nonsense,1-1-open"}, 422),
    ):
        response = client.post(address, data=wrong)
        assert response.status_code == status and 'role="alert"' in response.text
    elsewhere = client.post(address, data=right, headers={"sec-fetch-site": "cross-site"})
    assert elsewhere.status_code == 403
    assert client.post(address, data={"answer": "undo"}).status_code == 200
    assert decisions(copies) == []


def test_a_key_that_may_only_look_gets_no_buttons_to_decide_with(client: TestClient, copies: Copies) -> None:
    with Catalogue(Home(copies.settings.home)) as catalogue:
        keys = {scope: catalogue.keys.create(scope, scope)[0].text for scope in ("search", "write")}
    pages = {
        scope: client.get("/duplicates?tier=near", headers={"Authorization": f"Bearer {key}"}).text
        for scope, key in keys.items()
    }
    assert 'value="different"' in pages["write"] and "Answers need a key" not in pages["write"]
    assert 'name="answer"' not in pages["search"] and "Answers need a key" in pages["search"]
