"""Every operation of the service as a method."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack
from urllib.parse import quote

from simile.client.answers import (
    ActivationJson,
    AddedImageJson,
    AppliedAttributeJson,
    AttributeJson,
    ClientFilterOptions,
    ClientSearchOptions,
    DecisionJson,
    DuplicatePageJson,
    EncoderDetailJson,
    EncoderJson,
    FailurePageJson,
    ImageDetailJson,
    ImagePageJson,
    JobJson,
    JobListJson,
    LatentJson,
    ListedImageJson,
    MapJson,
    MapPointsJson,
    MorphJson,
    OutlierPageJson,
    SearchResponseJson,
    StatusJson,
    TraversalJson,
    UncertaintyJson,
)
from simile.client.errors import ClientError, Problem, Unavailable
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
LatentSource = int | Sequence[float]  # the id of an image, or a mu


class Client(Transport):
    """A service at an address. Safe to share between threads. Close it, or use it in `with`.

    Every method may raise Unreachable, and the Problem that the service answers with; see simile.client.errors.
    """

    def __init__(
        self, url: str, key: str | None = None, timeout: float = 60.0, context: ssl.SSLContext | None = None
    ) -> None:
        """key: as `simile keys create` showed it. timeout: seconds without a byte. context: for https."""
        super().__init__(url, key, timeout, context)

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
        """The images most similar to pictures (together, with the images `positive`), an image, or a vector.

        `unlike`, `negative`: pictures and images to be unlike.
        """
        place = "POST /v1/search"
        if images or negative_images:
            files = [("file", one) for one in images] + [("negative", one) for one in negative_images]
            fields = {**options, "positive_id": list(positive), "negative_id": list(negative)}
            return self._request_json(place, body=form_body(fields, files))
        asked = {"image_id": image_id, "vector": None if vector is None else list(map(float, vector))}
        asked |= {"positive": list(positive) or None, "negative": list(negative) or None}
        given = {name: value for name, value in asked.items() if value is not None}
        return self._request_json(place, body=json_body({**options, **given}))

    def search_batch(
        self,
        images: Sequence[ImageSource] = (),
        searches: Sequence[Mapping[str, Any]] = (),
        **options: Unpack[ClientSearchOptions],
    ) -> list[BatchResult]:
        """Several searches, each for itself: by pictures, or as JSON such as {"image_id": 17, "limit": 5}.

        In order; a Problem, which is not raised, in place of what could not be answered.
        """
        if bool(images) == bool(searches):
            raise ClientError("Give either pictures or searches.")
        if images:
            body = form_body(options, [("file", one) for one in images])
        else:
            body = json_body({"searches": [{**options, **one} for one in searches]})
        found = self._request_json("POST /v1/search/batch", body=body)["results"]
        return [Problem(one["problem"]["status"], one["problem"]) if "problem" in one else one for one in found]

    def reconstruct(self, image: ImageSource) -> bytes:
        """What the model sees in a picture, a PNG."""
        return self._request_operation("POST /v1/reconstructions", body=form_body({}, [("file", image)])).body

    def images(
        self,
        sort: Literal["id", "newest", "unlike"] = "id",
        limit: int = 100,
        offset: int = 0,
        cursor: str | None = None,
        **filters: Unpack[ClientFilterOptions],
    ) -> ImagePageJson:
        """A page of the collection; its `next` is the `cursor` of what follows."""
        asked = {"sort": sort, "limit": limit, "offset": offset, "cursor": cursor, **filters}
        return self._request_json("GET /v1/images", query_params=asked)

    def iterate_images(
        self, sort: Literal["id", "newest", "unlike"] = "id", **filters: Unpack[ClientFilterOptions]
    ) -> Iterator[ListedImageJson]:
        """The whole collection, image by image."""
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
        """Adds a picture. Safe to repeat: the same bytes are one image. Raises Conflict for a copy with `reject`."""
        fields = {} if metadata is None else {"metadata": json.dumps(dict(metadata))}
        body = form_body(fields, [("file", image)])
        return self._request_json("POST /v1/images", query_params={"if_duplicate": if_duplicate}, body=body)

    def image(self, image_id: int) -> ImageDetailJson:
        """What is known of an image, and said of it."""
        return self._request_json("GET /v1/images/{image_id}", image_id=image_id)

    def delete_image(self, image_id: int) -> None:
        """Forgets an image. A file in a folder of the user's stays where it is."""
        self._request_operation("DELETE /v1/images/{image_id}", image_id=image_id)

    def set_metadata(self, image_id: int, metadata: Mapping[str, str | float | None]) -> ImageDetailJson:
        """Says something of an image, in place of all that was said before."""
        body = json_body({"metadata": dict(metadata)})
        return self._request_json("PUT /v1/images/{image_id}/metadata", body=body, image_id=image_id)

    def file(self, image_id: int, metadata: Literal["strip", "keep"] = "strip") -> bytes:
        """The image's own file; `keep`: with what a camera wrote into it."""
        asked = {"metadata": None if metadata == "strip" else metadata}
        return self._request_operation("GET /v1/images/{image_id}/file", query_params=asked, image_id=image_id).body

    def thumbnail(self, image_id: int, side: int = 256) -> bytes:
        """A JPEG or PNG of at most `side` pixels a side."""
        return self._request_operation(
            "GET /v1/images/{image_id}/thumbnail", query_params={"side": side}, image_id=image_id
        ).body

    def reconstruction(self, image_id: int) -> bytes:
        """What the model sees in an indexed image, a PNG."""
        return self._request_operation("GET /v1/images/{image_id}/reconstruction", image_id=image_id).body

    def neighbours(self, image_id: int, **options: Unpack[ClientSearchOptions]) -> SearchResponseJson:
        """The images most similar to an indexed one."""
        return self._request_json("GET /v1/images/{image_id}/neighbours", query_params=options, image_id=image_id)

    def duplicates(
        self,
        tier: Sequence[Literal["bytes", "pixels", "near", "similar"]] = (),
        threshold: float | None = None,
        decided: bool | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> DuplicatePageJson:
        """Groups of copies, or similar pairs, that `simile dedup` found."""
        asked = {"tier": list(tier), "threshold": threshold, "decided": decided, "limit": limit, "offset": offset}
        return self._request_json("GET /v1/duplicates", query_params=asked)

    def save_decisions(self, decisions: Sequence[DecisionJson]) -> dict[str, int]:
        """Says of pairs of pictures whether they are copies. Safe to repeat."""
        return self._request_json("POST /v1/duplicates/decisions", body=json_body({"decisions": list(decisions)}))

    def duplicate_plan(
        self,
        tier: Sequence[Literal["bytes", "pixels", "near"]] = (),
        threshold: float | None = None,
        include_undecided: bool = False,
    ) -> dict[str, Any]:
        """What would be removed, for `simile dedup apply`: what people called the same, or all groups."""
        asked = {"tier": list(tier), "threshold": threshold, "all": include_undecided}
        return self._request_json("GET /v1/duplicates/plan", query_params=asked)

    def difference(self, first: int, second: int, show: Literal["difference", "overlay"] = "difference") -> bytes:
        """What differs between two images, a PNG."""
        asked = {"first": first, "second": second, "show": show}
        return self._request_operation("GET /v1/duplicates/difference", query_params=asked).body

    def encoders(self) -> list[EncoderJson]:
        """Every encoder of the home, the oldest first."""
        found: list[EncoderJson] = self._request_json("GET /v1/encoders")["encoders"]
        return found

    def encoder(self, fingerprint: str) -> EncoderDetailJson:
        """One encoder, with what its folder says of it."""
        return self._request_json("GET /v1/encoders/{fingerprint}", fingerprint=fingerprint)

    def activate_encoder(self, fingerprint: str) -> ActivationJson:
        """Puts an encoder in use."""
        return self._request_json("POST /v1/encoders/{fingerprint}/activate", fingerprint=fingerprint)

    def map(self, layout: MapLayout = "pca") -> MapJson:
        """The collection in a plane. Raises Unavailable while it is computed, NotFound where nobody asked for it."""
        return self._request_json("GET /v1/map", query_params={"layout": layout})

    def make_map(
        self,
        layout: MapLayout = "pca",
        clusters: Literal["kmeans", "hdbscan"] = "kmeans",
        count: int | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Has a map made: what is being made. count: clusters of k-means, or pictures of HDBSCAN's smallest."""
        wanted = {"layout": layout, "clusters": clusters, "count": count, "seed": seed}
        return self._request_json("POST /v1/map", body=json_body(wanted))

    def map_points(self, layout: MapLayout = "pca", label: str | None = None) -> MapPointsJson:
        """Every picture of a map, with where it lies. label: one of the map's, to tell the pictures apart by."""
        return self._request_json("GET /v1/map/points", query_params={"layout": layout, "label": label})

    def map_tile(self, tile: int, layout: MapLayout = "pca") -> bytes:
        """256 thumbnails of a map, a WebP."""
        return self._request_operation("GET /v1/map/tiles/{tile}", query_params={"layout": layout}, tile=tile).body

    def encode_images(
        self,
        *images: ImageSource,
        weights: Sequence[float] | None = None,
        attributes: Mapping[str, float] | None = None,
        dims: Mapping[int, float] | None = None,
        nearest: int = 10,
    ) -> LatentJson:
        """Where a picture lies in the latent space, or the middle of several, pushed and moved as in `mix`."""
        moved = {str(dim): steps for dim, steps in (dims or {}).items()}
        said = {"weights": list(weights or []), "attributes": dict(attributes or {}), "dims": moved, "nearest": nearest}
        return self._request_json("POST /v1/latents", body=_make_images_body(images, said))

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
        """The place between images (ids) and mu (lists of numbers), pushed along attributes, moved along dimensions."""
        named = [_make_source_json(one) for one in sources]
        if weights is not None:
            named = [{**one, "weight": weight} for one, weight in zip(named, weights, strict=True)]
        moved = {str(dim): steps for dim, steps in (dims or {}).items()}
        wanted = {"parts": named, "how": how, "attributes": dict(attributes or {}), "dims": moved}
        return self._request_json("POST /v1/latents", body=json_body({**wanted, "nearest": nearest, "picture": decode}))

    def morph(
        self,
        sources: Sequence[LatentSource] = (),
        steps: int = 16,
        how: InterpolationMethod = "linear",
        *,
        images: Sequence[ImageSource] = (),
    ) -> MorphJson:
        """The way from place to place, decoded step by step; pictures come before the parts."""
        wanted = {"parts": [_make_source_json(one) for one in sources], "steps": steps, "how": how}
        return self._request_json("POST /v1/morphs", body=_make_images_body(images, wanted))

    def samples(
        self,
        source: Literal["prior", "mixture", "image"] = "prior",
        image_id: int | None = None,
        count: int = 16,
        temperature: float = 1.0,
        seed: int = 0,
        image: ImageSource | None = None,
    ) -> list[dict[str, Any]]:
        """Pictures that were never taken: each with its `mu`, and its `picture` as a data URL.

        picture: around it, in place of a source. The same for the same seed.
        """
        wanted: dict[str, Any] = {"count": count, "temperature": temperature, "seed": seed}
        if image is None:
            wanted |= {"source": source} | ({} if image_id is None else {"image_id": image_id})
        body = _make_images_body([] if image is None else [image], wanted)
        return self._request_json("POST /v1/samples", body=body)["samples"]

    def traverse(
        self,
        start: LatentSource | None = None,
        dims: int | Sequence[int] = 8,
        span: float = 3.0,
        steps: int = 9,
        nearest: bool = True,
        image: ImageSource | None = None,
    ) -> TraversalJson:
        """Single dimensions from low to high; dims: how many, the most active ones, or which. picture: the start."""
        chosen = dims if isinstance(dims, int) else list(dims)
        wanted: dict[str, Any] = {"dims": chosen, "span": span, "steps": steps, "nearest": nearest}
        given = wanted if start is None else {**wanted, "start": _make_source_json(start)}
        return self._request_json(
            "POST /v1/traversals", body=_make_images_body([] if image is None else [image], given)
        )

    def uncertainty(
        self, image: ImageSource | None = None, *, image_id: int | None = None, samples: int = 32, seed: int = 0
    ) -> UncertaintyJson:
        """How sure the encoder is of a picture, or of an image."""
        wanted: dict[str, Any] = {"samples": samples, "seed": seed}
        if image is None:
            wanted["image_id"] = image_id
        return self._request_json(
            "POST /v1/uncertainty", body=_make_images_body([] if image is None else [image], wanted)
        )

    def outliers(self, limit: int = 50, offset: int = 0) -> OutlierPageJson:
        """The images least like the rest. Raises Unavailable while they are measured."""
        return self._request_json("GET /v1/outliers", query_params={"limit": limit, "offset": offset})

    def attributes(self) -> list[AttributeJson]:
        """The attributes of the encoder in use."""
        return self._request_json("GET /v1/attributes")["attributes"]

    def learn_attribute(
        self,
        name: str,
        positive: Sequence[int] = (),
        negative: Sequence[int] = (),
        where: Sequence[str] = (),
        seed: int = 0,
    ) -> AttributeJson:
        """Learns what two sets of images differ by, or those that satisfy `where` and all others."""
        wanted = {"name": name, "positive": list(positive), "negative": list(negative), "where": list(where)}
        return self._request_json("POST /v1/attributes", body=json_body({**wanted, "seed": seed}))

    def attribute(self, name: str) -> AttributeJson:
        """One attribute, and which others it drags along."""
        return self._request_json("GET /v1/attributes/{name}", name=name)

    def remove_attribute(self, name: str) -> None:
        """Removes an attribute."""
        self._request_operation("DELETE /v1/attributes/{name}", name=name)

    def apply_attribute(
        self,
        name: str,
        image: ImageSource | None = None,
        *,
        source: LatentSource | None = None,
        strengths: Sequence[float] = (1.0,),
    ) -> AppliedAttributeJson:
        """A picture, or a part (an image's id, a mu), with more or less of an attribute: one for each strength."""
        wanted: dict[str, Any] = {"strengths": list(strengths)} | ({} if source is None else _make_source_json(source))
        body = _make_images_body([] if image is None else [image], wanted)
        return self._request_json("POST /v1/attributes/{name}/apply", body=body, name=name)

    def status(self) -> StatusJson:
        """How things stand."""
        return self._request_json("GET /v1/status")

    def jobs(self, limit: int = 20) -> JobListJson:
        """The latest indexing jobs, and the names of what can be indexed."""
        return self._request_json("GET /v1/jobs", query_params={"limit": limit})

    def start_job(self, root: str, prune: bool = False) -> JobJson:
        """Starts to index a folder that the operator has given this name. Raises Conflict while another job runs."""
        return self._request_json("POST /v1/jobs", body=json_body({"root": root, "prune": prune}))

    def job(self, job_id: int) -> JobJson:
        """How a job stands."""
        return self._request_json("GET /v1/jobs/{job_id}", job_id=job_id)

    def cancel_job(self, job_id: int) -> JobJson:
        """Asks a job to stop; it finishes what it has in hand. Raises Conflict for one that is over."""
        return self._request_json("POST /v1/jobs/{job_id}/cancel", job_id=job_id)

    def job_failures(self, job_id: int, limit: int = 100, offset: int = 0) -> FailurePageJson:
        """Files that a job set aside, and why."""
        asked = {"limit": limit, "offset": offset}
        return self._request_json("GET /v1/jobs/{job_id}/failures", query_params=asked, job_id=job_id)

    def job_events(self, job_id: int) -> Iterator[JobJson]:
        """A job each time that it has moved on, until its end."""
        target = _make_target("GET /v1/jobs/{job_id}/events", {"job_id": job_id}, {})
        for line in self.stream_lines(target):
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))

    def is_alive(self) -> bool:
        """Whether the process answers; it says nothing of the home."""
        return bool(self._request_json("GET /livez")["status"] == "alive")

    def is_ready(self) -> bool:
        """Whether searches can be answered."""
        try:
            return bool(self._request_json("GET /readyz")["status"] == "ready")
        except Unavailable:
            return False

    def _request_json(
        self,
        operation: str,
        query_params: FormFields | None = None,
        body: RequestBody | None = None,
        **path_params: object,
    ) -> Any:
        return json.loads(self._request_operation(operation, query_params, body, **path_params).body)

    def _request_operation(
        self,
        operation: str,
        query_params: FormFields | None = None,
        body: RequestBody | None = None,
        **path_params: object,
    ) -> HttpResponse:
        """place: method and address as OpenAPI writes them, with `path` for what stands in braces."""
        return self.request(operation.partition(" ")[0], _make_target(operation, path_params, query_params or {}), body)


def _make_images_body(images: Sequence[ImageSource], values: Mapping[str, Any]) -> RequestBody:
    """A form with pictures and JSON beside them; without any JSON alone."""
    if not images:
        return json_body(dict(values))
    fields = {name: json.dumps(one, allow_nan=False) for name, one in values.items() if not isinstance(one, str)}
    texts = {name: one for name, one in values.items() if isinstance(one, str)}
    return form_body(fields | texts, [("file", one) for one in images])


def _make_source_json(source: LatentSource) -> dict[str, Any]:
    return {"image_id": source} if isinstance(source, int) else {"vector": list(map(float, source))}


def _make_target(operation: str, path_params: FormFields, query_params: FormFields) -> str:
    address = operation.partition(" ")[2].format(
        **{name: quote(str(value), safe="") for name, value in path_params.items()}
    )
    return address + make_query_string(query_params)
