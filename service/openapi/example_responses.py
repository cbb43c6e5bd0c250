"""What a service with a few clothing photos would be asked, and would answer."""

from __future__ import annotations

from typing import Any

from simile.service.schemas.jobs import JOB_EXAMPLE as _JOB

_FINGERPRINT = "7037831b0a56ace8"
_HIT: dict[str, Any] = {
    "image_id": 18,
    "distance": 0.214,
    "score": 0.83,
    "spread": 0.031,
    "path": "/pictures/shirt-2.jpg",
    "width": 400,
    "height": 534,
    "format": "jpeg",
    "file_url": "/v1/images/18/file",
    "thumbnail_url": "/v1/images/18/thumbnail",
    "reconstruction_url": None,
    "metadata": {"class": "shirt", "price": 9.5},
}
_QUERY: dict[str, Any] = {
    "name": "shirt.jpg",
    "image_id": None,
    "width": 400,
    "height": 534,
    "format": "jpeg",
    "reconstruction_error": 0.0041,
    "error_percentile": 37.5,
    "sigma": 0.182,
    "unlike": False,
    "unlike_reason": None,
    "false_alarm_rate": 0.0097,
    "false_alarm_among": "new",
    "positives": [],
    "negatives": [],
    "reconstruction": None,
}
_SEARCH_RESPONSE: dict[str, Any] = {"query": _QUERY, "hits": [_HIT], "score_calibrated": True}
_STORED_QUERY = {**_QUERY, "name": "shirt-1.jpg", "image_id": 17}
_IMAGE: dict[str, Any] = {
    "image_id": 17,
    "path": "/pictures/shirt-1.jpg",
    "paths": ["/pictures/shirt-1.jpg"],
    "width": 400,
    "height": 534,
    "format": "jpeg",
    "size": 48213,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "created_at": "2026-11-26T09:30:00Z",
    "reconstruction_error": 0.0041,
    "metadata": {"class": "shirt", "price": 9.5},
    "file_url": "/v1/images/17/file",
    "thumbnail_url": "/v1/images/17/thumbnail",
    "reconstruction_url": "/v1/images/17/reconstruction",
}
_IMAGE_DETAIL = {**_IMAGE, "sigma": 0.182}
_PROBLEM = {
    "type": "urn:problem-type:simile:unreadable-image",
    "title": "Unreadable image",
    "status": 422,
    "detail": "notes.jpg: not an image, or of a format that simile does not read. Replace the file, or leave it out.",
    "instance": "/v1/search",
}
_DUPLICATE_FILE: dict[str, Any] = {
    "image_id": 17,
    "path": "/pictures/shirt-1.jpg",
    "keep": True,
    "keep_reason": "the largest",
    "distance": None,
    "agreement": None,
    "reason": "",
    "sha256": _IMAGE["sha256"],
    "size": 48213,
    "width": 400,
    "height": 534,
    "format": "jpeg",
    "mtime": "2026-11-20T08:00:00Z",
    "labels": {"class": "shirt"},
    "file_url": "/v1/images/17/file",
    "thumbnail_url": "/v1/images/17/thumbnail",
    "difference_url": None,
}
_OTHER_DUPLICATE_FILE = _DUPLICATE_FILE | {
    "image_id": 18,
    "path": "/pictures/shirt-1 small.jpg",
    "keep": False,
    "keep_reason": "smaller: 200 x 267",
    "distance": 0.04,
    "agreement": 0.99,
    "reason": "a near copy, confirmed by its pixels",
    "file_url": "/v1/images/18/file",
    "thumbnail_url": "/v1/images/18/thumbnail",
    "difference_url": "/v1/duplicates/difference?first=17&second=18",
}
_DUPLICATE_GROUP: dict[str, Any] = {
    "id": "9f86d081884c7d65",
    "tier": "near",
    "keep": "/pictures/shirt-1.jpg",
    "keep_reason": "the largest",
    "members": [_DUPLICATE_FILE, _OTHER_DUPLICATE_FILE],
    "matched": 1,
    "possible": 1,
    "decided": False,
}
_ENCODER_RESPONSE: dict[str, Any] = {
    "fingerprint": _FINGERPRINT,
    "recipe": "invariant",
    "metric": "cosine",
    "dimensions": 64,
    "created_at": "2026-11-26T09:00:00Z",
    "active": True,
    "vectors": 1389,
    "images": 1389,
    "size": 6812345,
}
_RUN: dict[str, Any] = {
    "id": 3,
    "kind": "index",
    "status": "finished",
    "started_at": "2026-11-26T09:10:00Z",
    "finished_at": "2026-11-26T09:10:41Z",
    "failed": 2,
}

_PNG_DATA_URL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
_MU = [0.12, -1.4, 0.7]
_FRAME: dict[str, Any] = {"mu": _MU, "picture": _PNG_DATA_URL, "nearest": _HIT}
_ATTRIBUTE: dict[str, Any] = {
    "name": "smile",
    "encoder": _FINGERPRINT,
    "auc": {"raw": 0.934, "whitened": 0.957},
    "spread": {"raw": 0.006, "whitened": 0.004},
    "positives": 2952,
    "negatives": 7580,
    "contradictory": 4,
    "unreadable": 0,
    "seed": 0,
    "drags": [{"name": "glasses", "cosine": -0.11, "change": -0.08}],
}

# By route: what is sent, as a form or as JSON; files are left out.
REQUEST_EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "POST /v1/search": {
        "form": {"picture": {"file": ["shirt.jpg"], "limit": 10, "include": ["metadata"]}},
        "json": {
            "image": {"image_id": 17, "limit": 10},
            "several": {"positive": [17, 18], "negative": [4], "where": ["class=shirt"]},
            "vector": {"vector": [0.12, -1.4, 0.7], "within": 0.5},
        },
    },
    "POST /v1/latents": {
        "form": {
            "picture": {"file": ["shirt.jpg"]},
            "pushed": {"file": ["shirt.jpg"], "attributes": {"smile": 1.5}, "nearest": 5},
            "mixed": {"file": ["shirt.jpg", "shoe.jpg"], "weights": [0.7, 0.3], "parts": [{"image_id": 17}]},
        },
        "json": {
            "mix": {"parts": [{"image_id": 17, "weight": 0.7}, {"image_id": 18, "weight": 0.3}], "nearest": 5},
            "pushed": {"parts": [{"image_id": 17}], "attributes": {"smile": 1.5}, "dims": {"3": -2}},
        },
    },
    "POST /v1/morphs": {
        "form": {"two": {"file": ["shirt.jpg", "shoe.jpg"], "steps": 16}},
        "json": {"two": {"parts": [{"image_id": 17}, {"image_id": 18}], "steps": 16}},
    },
    "POST /v1/samples": {
        "form": {"around": {"file": "shirt.jpg", "count": 4, "seed": 7}},
        "json": {"prior": {"count": 16}, "around": {"source": "image", "image_id": 17, "count": 4}},
    },
    "POST /v1/traversals": {
        "form": {"of one": {"file": "shirt.jpg", "dims": [3, 7]}},
        "json": {"most": {"dims": 8}, "of one": {"start": {"image_id": 17}, "dims": [3, 7]}},
    },
    "POST /v1/uncertainty": {"form": {"picture": {"file": "shirt.jpg"}}, "json": {"image": {"image_id": 17}}},
    "POST /v1/attributes": {
        "json": {
            "sets": {"name": "smile", "positive": [17, 18], "negative": [4, 5]},
            "condition": {"name": "sold", "where": ["sold=yes"]},
        }
    },
    "POST /v1/attributes/{name}/apply": {
        "form": {"picture": {"file": "face.jpg", "strengths": [-1, 0, 1]}},
        "json": {"image": {"image_id": 17, "strengths": [-1, 0, 1]}},
    },
    "POST /v1/map": {"json": {"tsne": {"layout": "tsne", "clusters": "hdbscan"}, "fewer": {"count": 5}}},
    "POST /v1/search/batch": {
        "form": {"pictures": {"file": ["shirt.jpg", "shoe.jpg"], "limit": 5}},
        "json": {"searches": {"searches": [{"image_id": 17}, {"positive": [18, 19], "limit": 5}]}},
    },
    "POST /v1/reconstructions": {"form": {"picture": {"file": "shirt.jpg"}}},
    "POST /v1/images": {"form": {"picture": {"file": "shirt.jpg", "metadata": {"class": "shirt", "price": 9.5}}}},
    "PUT /v1/images/{image_id}/metadata": {"json": {"shirt": {"metadata": {"class": "shirt", "price": 9.5}}}},
    "POST /v1/duplicates/decisions": {
        "json": {"same": {"decisions": [{"first": 17, "second": 18, "same": True, "keep": 17}]}}
    },
    "POST /v1/jobs": {"json": {"index": {"root": "photos", "prune": False}}},
}

# By route: what is answered when all goes well.
RESPONSE_EXAMPLES: dict[str, Any] = {
    "POST /v1/search": _SEARCH_RESPONSE,
    "POST /v1/search/batch": {"results": [_SEARCH_RESPONSE, {"problem": _PROBLEM}]},
    "GET /v1/images": {
        "images": [_IMAGE | {"unlike_distance": None}],
        "total": 1389,
        "limit": 1,
        "offset": 0,
        "next": "WyJpZCIsIDE3XQ",
    },
    "POST /v1/images": _IMAGE,
    "GET /v1/images/{image_id}": _IMAGE_DETAIL,
    "PUT /v1/images/{image_id}/metadata": _IMAGE_DETAIL,
    "GET /v1/images/{image_id}/neighbours": _SEARCH_RESPONSE | {"query": _STORED_QUERY},
    "GET /v1/duplicates": {
        "run_id": 4,
        "encoder": _FINGERPRINT,
        "threshold": 0.21,
        "calibration": None,
        "groups": [_DUPLICATE_GROUP],
        "pairs": [],
        "total": 1,
        "limit": 100,
        "offset": 0,
        "hint": None,
    },
    "POST /v1/duplicates/decisions": {"stored": 1, "removed": 0},
    "GET /v1/duplicates/plan": {
        "simile_plan": 1,
        "created_at": "2026-11-26T10:00:00+00:00",
        "home": "/srv/simile",
        "removals": [],
        "decisions": [],
    },
    "GET /v1/map": {
        "layout": "pca",
        "map": "5f0c2d9b1a7e4c33",
        "layouts": ["pca"],
        "images": 1389,
        "newer": 0,
        "missing": 0,
        "method": "kmeans",
        "clusters": [
            {
                "cluster": 0,
                "size": 212,
                "typical": 17,
                "x": -0.41,
                "y": 0.18,
                "label": "shirt",
                "thumbnail_url": "/v1/images/17/thumbnail?side=96",
            }
        ],
        "labels": [{"by": "class", "names": ["dress", "shirt"]}],
        "errors": 1389,
        "tiles": 6,
        "tile_side": 48,
        "computing": None,
        "failed": None,
    },
    "POST /v1/map": {"layout": "tsne", "stage": "starting", "done": 0, "total": 0},
    "GET /v1/map/points": {
        "ids": [17, 18],
        "x": [-0.40117, 0.2093],
        "y": [0.17954, -0.63018],
        "place": [311, 12],
        "cluster": [0, None],
        "density": [0.8312, 0.1046],
        "error": [0.3751, 0.9024],
        "label": [1, 0],
    },
    "POST /v1/latents": {
        "name": "shirt-1.jpg + shirt-2.jpg",
        "mu": _MU,
        "sigma": None,
        "width": 400,
        "height": 534,
        "decoder": True,
        "picture": _PNG_DATA_URL,
        "nearest": [_HIT],
    },
    "POST /v1/morphs": {
        "how": "linear",
        "names": ["shirt-1.jpg", "shirt-2.jpg"],
        "stops": [0, 1],
        "changes": [0.083],
        "frames": [_FRAME, _FRAME],
    },
    "POST /v1/samples": {"seed": 0, "samples": [{"mu": _MU, "picture": _PNG_DATA_URL}]},
    "POST /v1/traversals": {
        "name": "shirt-1.jpg",
        "steps": [-3.0, 3.0],
        "dimensions": [{"dim": 3, "deviation": 0.94, "frames": [_FRAME, _FRAME]}],
    },
    "POST /v1/uncertainty": {
        "name": "shirt-1.jpg",
        "sigma": [0.18, 0.21, 0.19],
        "spread_of_all": [0.94, 0.88, 0.97],
        "samples": 32,
        "mean_deviation": 0.021,
        "largest": 0.134,
        "log_likelihood": 6120.4,
        "bits_per_value": 5.8,
        "error": 0.0041,
        "error_percentile": 37.5,
        "same_nearest": 0.84,
        "overlap": 0.91,
        "seen": _PNG_DATA_URL,
        "deviation": _PNG_DATA_URL,
    },
    "GET /v1/outliers": {
        "outliers": [
            {
                "image_id": 18,
                "path": "/pictures/shirt-2.jpg",
                "score": 9.7,
                "ranks": {"reconstruction": 0.62, "distance": 0.996, "density": 0.987},
                "reason": "farther from its 35th neighbour than 99.6 % of the others",
                "thumbnail_url": "/v1/images/18/thumbnail",
                "reconstruction_url": "/v1/images/18/reconstruction",
            }
        ],
        "images": 1389,
        "neighbour": 35,
        "total": 1000,
        "limit": 1,
        "offset": 0,
    },
    "GET /v1/attributes": {"attributes": [_ATTRIBUTE]},
    "POST /v1/attributes": _ATTRIBUTE,
    "GET /v1/attributes/{name}": _ATTRIBUTE,
    "POST /v1/attributes/{name}/apply": {
        "attribute": "smile",
        "name": "face.jpg",
        "width": 400,
        "height": 534,
        "pictures": [{"strength": 1.0, "mu": _MU, "picture": _PNG_DATA_URL}],
    },
    "GET /v1/encoders": {"encoders": [_ENCODER_RESPONSE]},
    "GET /v1/encoders/{fingerprint}": _ENCODER_RESPONSE
    | {"description": {"fingerprint": _FINGERPRINT, "metric": "cosine"}},
    "POST /v1/encoders/{fingerprint}/activate": {"fingerprint": _FINGERPRINT, "vectors": 1389, "lacking": 0},
    "GET /v1/status": {
        "version": "0.1.0",
        "images": 1389,
        "encoder": _FINGERPRINT,
        "index": {
            "kind": "exact",
            "rows": 1389,
            "pending": 0,
            "recall": 1.0,
            "memory_bytes": 366696,
            "created_at": "2026-11-26T09:10:41Z",
        },
        "gauge": {"status": "ready", "images": 1389, "false_alarm_rate": 0.0097, "false_alarm_among": "new"},
        "runs": [_RUN],
    },
    "GET /v1/jobs": {"jobs": [_JOB], "roots": ["photos", "scans"]},
    "POST /v1/jobs": _JOB,
    "GET /v1/jobs/{job_id}": _JOB,
    "POST /v1/jobs/{job_id}/cancel": _JOB | {"cancelling": True},
    "GET /v1/jobs/{job_id}/failures": {
        "failures": [{"path": "/pictures/broken.jpg", "reason": "the file is truncated"}],
        "total": 1,
        "limit": 100,
        "offset": 0,
    },
    "GET /livez": {"status": "alive"},
    "GET /readyz": {"status": "ready", "encoder": _FINGERPRINT, "images": 1389},
}
