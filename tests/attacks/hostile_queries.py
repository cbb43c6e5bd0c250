"""Small requests for much work: animations, batches, grids, thumbnails of large images."""

from __future__ import annotations

from functools import partial

from tests.attacks.target import Target, describe, run_together

ALLOWED = (200, 400, 404, 406, 413, 422, 429, 503)


def attack_with_morphs(target: Target) -> str:
    """Request long morphs as strips and animations."""
    parts = [{"image_id": number + 1} for number in range(8)]
    calls = [
        partial(target.send_json, "/v1/morphs", {"parts": parts, "steps": steps}, accept)
        for steps in (16, 64)
        for accept in ("image/png", "image/webp")
        for _ in range(target.count)
    ]
    return describe(run_together(calls), ALLOWED)


def attack_with_batches(target: Target) -> str:
    """Request batches of as many searches and results as possible, with and without filters."""
    searches = [{"image_id": 1 + number % 20, "limit": 1000, "include": ["metadata"]} for number in range(100)]
    where = [f"n{number}!={'x' * 100}" for number in range(32)]
    filtered = [{"image_id": 1 + number % 20, "limit": 1000, "where": where} for number in range(100)]
    calls = [
        partial(target.send_json, "/v1/search/batch", {"searches": body})
        for body in (searches, filtered)
        for _ in range(target.count)
    ]
    return describe(run_together(calls), ALLOWED)


def attack_with_latents(target: Target) -> str:
    """Request the most that the routes of the latent space give."""
    bodies = {
        "/v1/latents": {"parts": [{"image_id": 1}], "nearest": 100},
        "/v1/samples": {"count": 64},
        "/v1/traversals": {"dims": 100, "steps": 16},
        "/v1/uncertainty": {"image_id": 1, "samples": 256},
    }
    calls = [partial(target.send_json, path, body) for path, body in bodies.items() for _ in range(target.count)]
    return describe(run_together(calls), ALLOWED)


def attack_with_thumbnails(target: Target) -> str:
    """Request an image of many pixels in many sizes at once, and its file."""
    path = f"/v1/images/{target.large_image_id}"
    paths = [f"{path}/thumbnail?side={64 + number}" for number in range(4 * target.count)] + [path, f"{path}/file"]
    return describe(run_together([partial(target.request, "GET", path) for path in paths]), ALLOWED)


ATTACKS = (attack_with_morphs, attack_with_batches, attack_with_latents, attack_with_thumbnails)
