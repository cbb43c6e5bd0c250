"""The tools of the MCP server, called by the client of the SDK in this process."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp_types import CallToolResult
from PIL import Image
from starlette.testclient import TestClient

from simile.core.settings import Settings
from simile.service.app import create_app
from simile.service.mcp.server import create_mcp_server
from tests.conftest import Copies
from tests.support.images import BERLIN, CAMERA, SHOT, make_exif, make_photo, noise

Call = tuple[str, dict[str, Any]]


def run_client(settings: Settings, use: Callable[[Client], Awaitable[Any]], *folders: Path) -> Any:
    """What `use` returns, for a client of a server of this home."""

    async def run() -> Any:
        app = create_app(settings)
        async with app.router.lifespan_context(app), Client(create_mcp_server(app, folders)) as client:
            return await use(client)

    return asyncio.run(run())


def call(settings: Settings, *calls: Call, folders: tuple[Path, ...] = ()) -> list[CallToolResult]:
    """The results of calls of tools."""

    async def use(client: Client) -> list[CallToolResult]:
        return [await client.call_tool(name, arguments) for name, arguments in calls]

    results: list[CallToolResult] = run_client(settings, use, *folders)
    return results


def structured(result: CallToolResult) -> Any:
    assert not result.is_error, result.content
    return result.structured_content


def refusal(result: CallToolResult) -> str:
    assert result.is_error
    return str(getattr(result.content[0], "text", ""))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ids(result: CallToolResult) -> list[int]:
    return [hit["image_id"] for hit in structured(result)["hits"]]


def test_all_tools_say_that_they_only_read_and_describe_their_arguments(shared_home: Settings) -> None:
    tools = run_client(shared_home, lambda client: client.list_tools()).tools
    assert [tool.name for tool in tools] == [
        *("search_images", "find_neighbours", "list_images", "count_facets"),
        *("get_image", "get_thumbnail", "list_duplicates", "get_status"),
    ]
    for tool in tools:
        assert tool.annotations.read_only_hint and tool.annotations.open_world_hint is False
        assert tool.description.endswith(".") and (tool.output_schema or tool.name == "get_thumbnail")
        for name, schema in tool.input_schema["properties"].items():
            assert schema.get("description"), f"{tool.name}: {name}"


def test_an_image_a_path_and_an_id_find_the_same_as_over_http(
    shared_home: Settings, shared_client: TestClient, _trained: tuple[Path, Path]
) -> None:
    photos = _trained[1]
    path = sorted(photos.iterdir())[0]
    expected = shared_client.post("/v1/search?include=metadata", files={"file": (path.name, path.read_bytes())}).json()
    neighbours = shared_client.get("/v1/images/1/neighbours?include=metadata&limit=3").json()
    by_path, by_bytes, by_id, ids_of_several = call(
        shared_home,
        ("search_images", {"image_path": str(path)}),
        ("search_images", {"image_base64": encoded(path.read_bytes())}),
        ("find_neighbours", {"image_id": 1, "limit": 3}),
        ("search_images", {"positive_ids": [1, 2], "negative_ids": [3], "limit": 5}),
        folders=(photos,),
    )
    assert structured(by_path)["hits"] == structured(by_bytes)["hits"] == expected["hits"]
    assert structured(by_id)["hits"] == neighbours["hits"] and 1 not in ids(by_id)
    assert len(ids(ids_of_several)) == 5 and not {1, 2, 3} & set(ids(ids_of_several))


def test_filters_have_the_grammar_of_the_api(client: TestClient, home_with_digits: Settings) -> None:
    for image_id in (4, 5, 6):
        client.put(f"/v1/images/{image_id}/metadata", json={"metadata": {"digit": "seven" if image_id < 6 else "one"}})
    where = {"where": "digit=seven or digit=one"}
    found, listed, counted, text = call(
        home_with_digits,
        ("search_images", {"positive_ids": [1], **where}),
        ("list_images", {"where": "digit=seven and width>=8"}),
        ("count_facets", {"fields": ["digit"]}),
        ("search_images", {"text": "nonsense"}),
    )
    assert sorted(ids(found)) == [4, 5, 6] and structured(found)["hits"][0]["metadata"].keys() == {"digit"}
    assert structured(listed)["total"] == 2
    first = structured(counted)["facets"][0]["values"][0]
    assert (first["value"], first["count"], first["where"]) == ("seven", 2, "digit=seven")
    assert "nonsense" in refusal(text)


def test_an_image_has_its_metadata_and_its_thumbnail_has_none_of_the_camera(
    client: TestClient, home_with_digits: Settings
) -> None:
    photo = make_photo(exif=make_exif(CAMERA, SHOT, BERLIN))
    added = client.post("/v1/images", files={"file": ("a.jpg", photo)}).json()["image_id"]
    image, newest, thumbnail, status = call(
        home_with_digits,
        ("get_image", {"image_id": added}),
        ("list_images", {"sort": "taken", "limit": 1}),
        ("get_thumbnail", {"image_id": added, "side": 32}),
        ("get_status", {}),
    )
    assert structured(image)["photo"]["camera"] == "NIKON D850"
    assert [listed["image_id"] for listed in structured(newest)["images"]] == [added]
    assert structured(status)["images"] == 121
    content: Any = thumbnail.content[0]
    data = base64.b64decode(content.data)
    decoded = Image.open(io.BytesIO(data))
    assert content.mime_type == f"image/{decoded.format}".lower() and max(decoded.size) <= 32
    assert b"NIKON" in photo and b"NIKON" not in data and not decoded.getexif()


def test_the_copies_of_the_last_run_are_those_of_the_api(shared_copies: Copies) -> None:
    groups, similar, both = call(
        shared_copies.settings,
        ("list_duplicates", {"tiers": ["pixels"]}),
        ("list_duplicates", {"tiers": ["similar"]}),
        ("list_duplicates", {"tiers": ["similar", "near"]}),
    )
    assert [Path(group["keep"]).name for group in structured(groups)["groups"]] == ["20.bmp", "21.bmp"]
    assert len(structured(similar)["pairs"]) == 1
    assert "request tier=similar separately" in refusal(both)


def test_an_error_names_the_argument_and_the_next_step(shared_home: Settings, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "secret.png").write_bytes(noise(1))
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    (photos / "text.png").write_text("no image")
    cases: dict[str, Call] = {
        "Give image_path, image_base64, positive_ids or text": ("search_images", {}),
        "without a data: prefix": ("search_images", {"image_base64": "data:image/png;base64,AAAA"}),
        f"{photos}/link.png' is outside the folders": ("search_images", {"image_path": f"{photos}/link.png"}),
        "simile mcp --root FOLDER": ("search_images", {"image_path": f"{photos}/../secret.png"}),
        "is no path": ("search_images", {"image_path": "a\0b"}),
        "there is no such file": ("search_images", {"image_path": f"{photos}/gone.png"}),
        "text.png": ("search_images", {"image_path": f"{photos}/text.png"}),
        "There is no image 999": ("get_image", {"image_id": 999}),
        "less than or equal to 400": ("get_thumbnail", {"image_id": 1, "side": 401}),
        "less than or equal to 100": ("find_neighbours", {"image_id": 1, "limit": 101}),
        "where": ("list_images", {"where": "(a=1"}),
        "were": ("list_images", {"were": "a=1"}),
        "format, camera": ("count_facets", {"fields": ["nonsense"]}),
    }
    results = call(shared_home, *cases.values(), folders=(photos,))
    for expected, result in zip(cases, results, strict=True):
        assert expected in refusal(result)


def test_an_image_larger_than_an_upload_may_be_is_refused(shared_home: Settings) -> None:
    settings = shared_home.model_copy(update={"max_bytes": 1000})
    (result,) = call(settings, ("search_images", {"image_base64": encoded(noise(1))}))
    assert "1,000 bytes" in refusal(result)


@pytest.mark.parametrize("bad", [noise(1)[:200], b"<svg/>"])
def test_a_damaged_image_is_an_error_of_the_tool(shared_home: Settings, bad: bytes) -> None:
    (result,) = call(shared_home, ("search_images", {"image_base64": encoded(bad)}))
    assert "image_base64" in refusal(result)
