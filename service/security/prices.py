"""Prices of requests, in ordinary searches: what a request takes of the rate limit, and of the queue.

Measured by the time of a request with default options against that of a search by id, and at most 10, so that a single
request takes little of either. What a request may cost at most is bounded where it is read, in frames and pixels.
"""

from __future__ import annotations

from starlette.types import Scope

IMAGE_PRICE = 0.05  # a page of hits requests a hundred thumbnails at once
SLOW_SEARCH_PRICE = 2  # of a search with a filter, a radius, attributes or a text, which gets a thread of its own
VERIFIED_SEARCH_PRICE = 10  # of a search with `verify`, which decodes and compares up to 20 files
PRICES = {  # by method and path; measured: times as long as a search by id, with 700 photos on 2 cores
    ("POST", "/v1/search/batch"): 10,  # 12 for 10 searches, 70 for 100
    ("POST", "/v1/map"): 10,  # minutes, in a process of its own
    ("POST", "/v1/morphs"): 10,  # 28; 300 as a strip
    ("POST", "/v1/traversals"): 10,  # 25
    ("POST", "/v1/uncertainty"): 10,  # 25
    ("POST", "/v1/attributes"): 10,
    ("POST", "/v1/attributes/{name}/apply"): 5,
    ("GET", "/v1/duplicates/difference"): 10,  # 45
    ("POST", "/v1/latents"): 5,  # 6
    ("POST", "/v1/samples"): 5,  # 5
    ("GET", "/latent"): 5,  # 6
    ("GET", "/v1/outliers"): 3,  # 3
    ("GET", "/v1/map/points"): 2,  # this and the next: 1, more in a large collection
    ("GET", "/v1/map"): 2,
    ("GET", "/map"): 2,
    ("GET", "/v1/map/tiles/{tile}"): 2,  # 50 when it is drawn, less than 1 afterwards
    ("GET", "/v1/images"): 2,  # this and the next: sorted by `unlike` only
    ("GET", "/collection"): 2,
}
_SORTED_PATHS = ("/v1/images", "/collection")


def get_search_price(*, is_slow: bool, is_verified: bool) -> float:
    """Return the price of a search for the queue; `is_slow`: see SLOW_SEARCH_PRICE."""
    return VERIFIED_SEARCH_PRICE if is_verified else SLOW_SEARCH_PRICE if is_slow else 1


def get_price(scope: Scope) -> float:
    """Return the price of a request, by its method, its path and its query string."""
    path: str = scope["path"]
    if path.startswith("/static/") or path.endswith(("/thumbnail", "/reconstruction")):
        return IMAGE_PRICE
    if path.startswith("/v1/map/tiles/"):
        path = "/v1/map/tiles/{tile}"
    elif path.endswith("/apply"):
        path = "/v1/attributes/{name}/apply"
    elif path in _SORTED_PATHS and b"sort=unlike" not in scope["query_string"]:
        return 1
    return PRICES.get((scope["method"], path), 1)
