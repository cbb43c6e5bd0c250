"""The client: one method for each operation of the service."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack
from urllib.parse import quote

from simile.client.errors import ClientError, Problem, Unavailable
from simile.client.responses import (
    AddedImageJson,
    ClientFilterOptions,
    ClientSearchOptions,
    DecisionJson,
    ImageDetailJson,
    ImagePageJson,
    JobJson,
    Json,
    LatentJson,
    ListedImageJson,
    SearchResponseJson,
)
from simile.client.transport import (
    FormFields,
    HttpResponse,
    ImageSource,
    RequestBody,
    Transport,
    form_body,
    json_body,
    make_query_string,
)

BatchResult = SearchResponseJson | Problem
MapLayout = Literal["pca", "umap", "tsne"]
InterpolationMethod = Literal["linear", "spherical"]
LatentSource = int | Sequence[float]  # the id of an image, or a latent vector mu


class Client(Transport):
    """A client of one service. Safe to share between threads. Close it, or use it in `with`.

    Every method can raise Unreachable and the Problem that the service responds with; see simile.client.errors.
    """

    def search(
        self,
        *images: ImageSource,
        image_id: int | None = None,
        vector: Sequence[float] | None = None,
        positive: Sequence[int] = (),
        negative: Sequence[int] = (),
        negative_images: Sequence[ImageSource] = (),
        **options: Unpack[ClientSearchOptions],
    ) -> SearchResponseJson:
        """Find the images most similar to an image, an indexed image, a vector, or several images together.

        With `text` they also have its words; `text` alone needs no image.

        Args:
            images, positive: Image files and indexed images that the hits should resemble.
            negative_images, negative: Image files and indexed images that the hits should not resemble.
            image_id, vector: An indexed image, or a latent vector mu; without other images.
            options: Filters and options, as in docs/api.md.
        """
        if images or negative_images:
            files = [("file", image) for image in images] + [("negative", image) for image in negative_images]
            fields = {**options, "positive_id": list(positive), "negative_id": list(negative)}
            return self._request_json("POST /v1/search", body=form_body(fields, files))
        source = {"image_id": image_id, "vector": None if vector is None else list(map(float, vector))}
        source |= {"positive": list(positive) or None, "negative": list(negative) or None}
        given = {name: value for name, value in source.items() if value is not None}
        return self._request_json("POST /v1/search", body={**options, **given})

    def search_batch(
        self,
        images: Sequence[ImageSource] = (),
        searches: Sequence[Mapping[str, Any]] = (),
        **options: Unpack[ClientSearchOptions],
    ) -> list[BatchResult]:
        """Run several searches: one for each image, or as JSON such as {"image_id": 17, "limit": 5}.

        The results are in order; a Problem, which is not raised, takes the place of a failed search.
        """
        if bool(images) == bool(searches):
            raise ClientError("Give either images or searches.")
        body = (
            form_body(options, [("file", image) for image in images])
            if images
            else json_body({"searches": [{**options, **search} for search in searches]})
        )
        results = self._request_json("POST /v1/search/batch", body=body)["results"]
        return [
            Problem(result["problem"]["status"], result["problem"]) if "problem" in result else result
            for result in results
        ]

    def reconstruct(self, image: ImageSource) -> bytes:
        """Encode and decode an image; returns a PNG."""
        return self._request("POST /v1/reconstructions", body=form_body({}, [("file", image)])).body

    def images(
        self,
        sort: Literal["id", "newest", "taken", "unlike"] = "id",
        limit: int = 100,
        offset: int = 0,
        cursor: str | None = None,
        **filters: Unpack[ClientFilterOptions],
    ) -> ImagePageJson:
        """List a page of the collection; its `next` is the `cursor` of the next page."""
        query = {"sort": sort, "limit": limit, "offset": offset, "cursor": cursor, **filters}
        return self._request_json("GET /v1/images", query)

    def iterate_images(
        self, sort: Literal["id", "newest", "taken", "unlike"] = "id", **filters: Unpack[ClientFilterOptions]
    ) -> Iterator[ListedImageJson]:
        """Iterate over the whole collection."""
        cursor: str | None = None
        while True:
            page = self.images(sort, 1000, 0, cursor, **filters)
            yield from page["images"]
            cursor = page["next"]
            if cursor is None:
                return

    def add_image(
        self,
        image: ImageSource,
        metadata: Mapping[str, str | float | None] | None = None,
        if_duplicate: Literal["reject", "link", "keep"] | None = None,
    ) -> AddedImageJson:
        """Add an image. Safe to repeat: the same bytes are one image. Raises Conflict for a copy with `reject`."""
        fields = {} if metadata is None else {"metadata": json.dumps(dict(metadata))}
        body = form_body(fields, [("file", image)])
        return self._request_json("POST /v1/images", {"if_duplicate": if_duplicate}, body)

    def image(self, image_id: int) -> ImageDetailJson:
        """Return an image with its metadata."""
        return self._request_json("GET /v1/images/{image_id}", image_id=image_id)

    def delete_image(self, image_id: int) -> None:
        """Remove an image from the collection. A file in one of the user's folders stays."""
        self._request("DELETE /v1/images/{image_id}", image_id=image_id)

    def set_metadata(self, image_id: int, metadata: Mapping[str, str | float | None]) -> ImageDetailJson:
        """Replace the metadata of an image."""
        body = {"metadata": dict(metadata)}
        return self._request_json("PUT /v1/images/{image_id}/metadata", body=body, image_id=image_id)

    def file(self, image_id: int, metadata: Literal["strip", "keep"] = "strip") -> bytes:
        """Return the file of an image; `keep`: with the metadata that a camera wrote into it."""
        query = {"metadata": None if metadata == "strip" else metadata}
        return self._request("GET /v1/images/{image_id}/file", query, image_id=image_id).body

    def thumbnail(self, image_id: int, side: int = 256) -> bytes:
        """Return a JPEG or PNG, at most `side` pixels wide and high."""
        return self._request("GET /v1/images/{image_id}/thumbnail", {"side": side}, image_id=image_id).body

    def reconstruction(self, image_id: int) -> bytes:
        """Return the reconstruction of an indexed image, a PNG."""
        return self._request("GET /v1/images/{image_id}/reconstruction", image_id=image_id).body

    def neighbours(self, image_id: int, **options: Unpack[ClientSearchOptions]) -> SearchResponseJson:
        """Find the images most similar to an indexed image."""
        return self._request_json("GET /v1/images/{image_id}/neighbours", options, image_id=image_id)

    def duplicates(
        self,
        tier: Sequence[Literal["bytes", "pixels", "near", "series", "similar"]] = (),
        threshold: float | None = None,
        decided: bool | None = None,
        limit: int = 100,
        offset: int = 0,
        scope: Literal["across", "within"] | None = None,
    ) -> Json:
        """List groups of copies, or similar pairs, from `simile dedup`."""
        query = {"tier": list(tier), "threshold": threshold, "decided": decided, "limit": limit, "offset": offset}
        return self._request_json("GET /v1/duplicates", query | {"scope": scope})

    def save_decisions(self, decisions: Sequence[DecisionJson]) -> dict[str, int]:
        """Decide for pairs of images whether they are copies. Safe to repeat."""
        return self._request_json("POST /v1/duplicates/decisions", body={"decisions": list(decisions)})

    def duplicate_plan(
        self,
        tier: Sequence[Literal["bytes", "pixels", "near"]] = (),
        threshold: float | None = None,
        include_undecided: bool = False,
        scope: Literal["across", "within"] | None = None,
    ) -> Json:
        """Return the cleanup plan for `simile dedup apply`: pairs decided to be the same, or all groups."""
        query = {"tier": list(tier), "threshold": threshold, "all": include_undecided, "scope": scope}
        return self._request_json("GET /v1/duplicates/plan", query)

    def difference(self, first: int, second: int, show: Literal["difference", "overlay"] = "difference") -> bytes:
        """Return the difference image of two images, a PNG."""
        return self._request("GET /v1/duplicates/difference", {"first": first, "second": second, "show": show}).body

    def encoders(self) -> list[Json]:
        """List all encoders of the home, oldest first."""
        return self._request_json("GET /v1/encoders")["encoders"]

    def encoder(self, fingerprint: str) -> Json:
        """Return one encoder with its description."""
        return self._request_json("GET /v1/encoders/{fingerprint}", fingerprint=fingerprint)

    def activate_encoder(self, fingerprint: str) -> Json:
        """Activate an encoder."""
        return self._request_json("POST /v1/encoders/{fingerprint}/activate", fingerprint=fingerprint)

    def map(self, layout: MapLayout = "pca") -> Json:
        """Return the map of the collection. Raises Unavailable while it is computed, NotFound before `make_map`."""
        return self._request_json("GET /v1/map", {"layout": layout})

    def make_map(
        self,
        layout: MapLayout = "pca",
        clusters: Literal["kmeans", "hdbscan"] = "kmeans",
        count: int | None = None,
        seed: int = 0,
    ) -> Json:
        """Start to compute a map and return the progress; for HDBSCAN `count` is the minimum size of a cluster."""
        body = {"layout": layout, "clusters": clusters, "count": count, "seed": seed}
        return self._request_json("POST /v1/map", body=body)

    def map_points(self, layout: MapLayout = "pca", label: str | None = None) -> Json:
        """Return all images of a map with their positions; `label` is one of the map's labels, for colours."""
        return self._request_json("GET /v1/map/points", {"layout": layout, "label": label})

    def map_tile(self, tile: int, layout: MapLayout = "pca") -> bytes:
        """Return 256 thumbnails of a map, a WebP."""
        return self._request("GET /v1/map/tiles/{tile}", {"layout": layout}, tile=tile).body

    def encode_images(
        self,
        *images: ImageSource,
        weights: Sequence[float] | None = None,
        attributes: Mapping[str, float] | None = None,
        dims: Mapping[int, float] | None = None,
        nearest: int = 10,
    ) -> LatentJson:
        """Return the latent vector of an image, or the weighted mean of several, shifted as in `mix`."""
        fields = {"weights": list(weights or []), "nearest": nearest} | _make_shift_json(attributes, dims)
        return self._request_json("POST /v1/latents", body=_make_images_body(images, fields))

    def mix(
        self,
        sources: Sequence[LatentSource],
        weights: Sequence[float] | None = None,
        *,
        how: InterpolationMethod = "linear",
        attributes: Mapping[str, float] | None = None,
        dims: Mapping[int, float] | None = None,
        nearest: int = 0,
        decode: bool = True,
    ) -> LatentJson:
        """Mix the latent vectors of indexed images and given vectors; `weights` has a weight for each source.

        Args:
            attributes: Strength by attribute to shift the result by.
            dims: Offset by dimension to shift the result by.
            nearest: Number of nearest images to return.
            decode: Return the decoded image.
        """
        parts = [_make_source_json(source) for source in sources]
        if weights is not None:
            parts = [{**part, "weight": weight} for part, weight in zip(parts, weights, strict=True)]
        body = {"parts": parts, "how": how, "nearest": nearest, "picture": decode}
        return self._request_json("POST /v1/latents", body=body | _make_shift_json(attributes, dims))

    def morph(
        self,
        sources: Sequence[LatentSource] = (),
        steps: int = 16,
        how: InterpolationMethod = "linear",
        *,
        images: Sequence[ImageSource] = (),
    ) -> Json:
        """Decode the path between latent vectors step by step; image files come before `sources`."""
        fields = {"parts": [_make_source_json(source) for source in sources], "steps": steps, "how": how}
        return self._request_json("POST /v1/morphs", body=_make_images_body(images, fields))

    def samples(
        self,
        source: Literal["prior", "mixture", "image"] = "prior",
        image_id: int | None = None,
        count: int = 16,
        temperature: float = 1.0,
        seed: int = 0,
        image: ImageSource | None = None,
    ) -> list[Json]:
        """Generate images, each with its `mu` and its `picture` as a data URL; the same for the same seed.

        Args:
            image_id: The indexed image to sample around, for the source `image`.
            temperature: A factor for the standard deviation.
            image: An image file to sample around, instead of a source.
        """
        fields: dict[str, Any] = {"count": count, "temperature": temperature, "seed": seed}
        if image is None:
            fields |= {"source": source} | ({} if image_id is None else {"image_id": image_id})
        return self._request_json("POST /v1/samples", body=_make_images_body([image], fields))["samples"]

    def traverse(
        self,
        start: LatentSource | None = None,
        dims: int | Sequence[int] = 8,
        span: float = 3.0,
        steps: int = 9,
        nearest: bool = True,
        image: ImageSource | None = None,
    ) -> Json:
        """Decode steps along single dimensions.

        Args:
            start: An image id or a vector; None: the image file, or the mean.
            dims: The number of most active dimensions, or a list of dimensions.
            span: The range of the steps in standard deviations.
            nearest: Return the nearest image of each step.
        """
        chosen = dims if isinstance(dims, int) else list(dims)
        fields: dict[str, Any] = {"dims": chosen, "span": span, "steps": steps, "nearest": nearest}
        if start is not None:
            fields["start"] = _make_source_json(start)
        return self._request_json("POST /v1/traversals", body=_make_images_body([image], fields))

    def uncertainty(
        self, image: ImageSource | None = None, *, image_id: int | None = None, samples: int = 32, seed: int = 0
    ) -> Json:
        """Return the encoder's uncertainty about an image file or an indexed image."""
        fields: dict[str, Any] = {"samples": samples, "seed": seed} | ({} if image else {"image_id": image_id})
        return self._request_json("POST /v1/uncertainty", body=_make_images_body([image], fields))

    def words(self, beginning: str = "", limit: int = 100) -> Json:
        """List the words that `text` of a search may have."""
        return self._request_json("GET /v1/words", {"q": beginning, "limit": limit})

    def facets(self, *fields: str, limit: int = 20, **filters: Unpack[ClientFilterOptions]) -> Json:
        """Count the images that match the filters by the values of fields; without fields, by all that form classes."""
        return self._request_json("GET /v1/facets", {"fields": list(fields), "limit": limit, **filters})

    def outliers(self, limit: int = 50, offset: int = 0) -> Json:
        """List the outliers of the collection. Raises Unavailable while they are computed."""
        return self._request_json("GET /v1/outliers", {"limit": limit, "offset": offset})

    def quality(self, issue: str | None = None, limit: int = 10) -> Json:
        """Count the images with each issue of quality, or with one, and list the worst."""
        return self._request_json("GET /v1/quality", {"issue": issue, "limit": limit})

    def attributes(self) -> list[Json]:
        """List the attributes of the active encoder."""
        return self._request_json("GET /v1/attributes")["attributes"]

    def learn_attribute(
        self,
        name: str,
        positive: Sequence[int] = (),
        negative: Sequence[int] = (),
        where: Sequence[str] = (),
        seed: int = 0,
    ) -> Json:
        """Learn an attribute from images with and without it, or from images that match `where` and all others."""
        sets = {"positive": list(positive), "negative": list(negative), "where": list(where)}
        return self._request_json("POST /v1/attributes", body={"name": name, **sets, "seed": seed})

    def attribute(self, name: str) -> Json:
        """Return one attribute and its effect on the other attributes."""
        return self._request_json("GET /v1/attributes/{name}", name=name)

    def remove_attribute(self, name: str) -> None:
        """Remove an attribute."""
        self._request("DELETE /v1/attributes/{name}", name=name)

    def apply_attribute(
        self,
        name: str,
        image: ImageSource | None = None,
        *,
        source: LatentSource | None = None,
        strengths: Sequence[float] = (1.0,),
    ) -> Json:
        """Decode an image file, an indexed image or a vector with more or less of an attribute, by strength."""
        fields: dict[str, Any] = {"strengths": list(strengths)} | ({} if source is None else _make_source_json(source))
        body = _make_images_body([image], fields)
        return self._request_json("POST /v1/attributes/{name}/apply", body=body, name=name)

    def status(self) -> Json:
        """Return the state of the home: counts, encoder, index, calibration, latest runs."""
        return self._request_json("GET /v1/status")

    def jobs(self, limit: int = 20) -> Json:
        """List the latest indexing jobs as `jobs` and the folders that can be indexed as `roots`."""
        return self._request_json("GET /v1/jobs", {"limit": limit})

    def start_job(self, root: str, prune: bool = False) -> JobJson:
        """Start to index the folder that the operator named `root`. Raises Conflict while another job runs."""
        return self._request_json("POST /v1/jobs", body={"root": root, "prune": prune})

    def job(self, job_id: int) -> JobJson:
        """Return the state of a job."""
        return self._request_json("GET /v1/jobs/{job_id}", job_id=job_id)

    def cancel_job(self, job_id: int) -> JobJson:
        """Request that a job stops after its current batch. Raises Conflict if it has ended."""
        return self._request_json("POST /v1/jobs/{job_id}/cancel", job_id=job_id)

    def job_failures(self, job_id: int, limit: int = 100, offset: int = 0) -> Json:
        """List the files that a job could not read, with the reasons."""
        return self._request_json("GET /v1/jobs/{job_id}/failures", {"limit": limit, "offset": offset}, job_id=job_id)

    def job_events(self, job_id: int) -> Iterator[JobJson]:
        """Yield a job after each change until it ends."""
        for line in self.stream_lines(_make_target("GET /v1/jobs/{job_id}/events", {"job_id": job_id}, {})):
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))

    def is_alive(self) -> bool:
        """Return whether the process responds."""
        return bool(self._request_json("GET /livez")["status"] == "alive")

    def is_ready(self) -> bool:
        """Return whether the service can answer searches."""
        try:
            return bool(self._request_json("GET /readyz")["status"] == "ready")
        except Unavailable:
            return False

    def _request_json(
        self,
        operation: str,
        query: FormFields | None = None,
        body: RequestBody | Json | None = None,
        **path_params: object,
    ) -> Any:
        return json.loads(self._request(operation, query, body, **path_params).body)

    def _request(
        self,
        operation: str,
        query: FormFields | None = None,
        body: RequestBody | Json | None = None,
        **path_params: object,
    ) -> HttpResponse:
        """Send a request; `operation` is the method and the path of the OpenAPI document, a dict body becomes JSON."""
        method = operation.partition(" ")[0]
        encoded = json_body(body) if isinstance(body, dict) else body
        return self.request(method, _make_target(operation, path_params, query or {}), encoded)


def _make_images_body(images: Sequence[ImageSource | None], fields: Json) -> RequestBody:
    """Return a form with image files whose other fields hold JSON; without images plain JSON."""
    files = [("file", image) for image in images if image is not None]
    if not files:
        return json_body(fields)
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, allow_nan=False) for name, value in fields.items()
    }
    return form_body(texts, files)


def _make_source_json(source: LatentSource) -> Json:
    return {"image_id": source} if isinstance(source, int) else {"vector": list(map(float, source))}


def _make_shift_json(attributes: Mapping[str, float] | None, dims: Mapping[int, float] | None) -> Json:
    return {"attributes": dict(attributes or {}), "dims": {str(dim): steps for dim, steps in (dims or {}).items()}}


def _make_target(operation: str, path_params: FormFields, query: FormFields) -> str:
    quoted = {name: quote(str(value), safe="") for name, value in path_params.items()}
    return operation.partition(" ")[2].format(**quoted) + make_query_string(query)
