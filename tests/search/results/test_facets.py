"""Facets count images by the values of their fields, as filters find them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest

from simile.core.errors import BadSetting
from simile.core.filters.parser import make_filter
from simile.core.records import FileStat, PhotoMetadata
from simile.search.results.facets import count_facets
from simile.store.catalogue.catalogue import Catalogue
from simile.store.facets.facet_index import FacetIndex
from simile.store.home import Home
from simile.store.index.index import Index
from tests.support.catalogue import make_new_image

VAE = "a" * 64
MAY, JUNE = datetime(2024, 5, 6, 7), datetime(2024, 6, 1)
PHOTOS = (
    PhotoMetadata(camera="Nikon", rating=3, taken=MAY, keywords=("red", "sea")),
    PhotoMetadata(camera="Nikon", rating=5, taken=JUNE, keywords=("sea",)),
    PhotoMetadata(camera="Leica", taken=datetime(1999, 12, 31, 23, 59, 59)),
    None,
)
METADATA = ({"class": "shirt"}, {"class": "dress", "camera": "scanner"}, {"class": "shirt"}, {"title": "x"})


class Collection:
    """Four images; the first has a second file, with the class of the first and another keyword."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.index, self.facet_index = Index(catalogue), FacetIndex(catalogue)

    def count(self, *names: str, where: str | None = None, limit: int = 20) -> dict[str, dict[str, int]]:
        filter_ = None if where is None else make_filter(where=[where])
        counts = count_facets(self.index, self.facet_index, filter_, names, limit)
        return {facet.name: {item.value: item.count for item in facet.values} for facet in counts.facets}


@pytest.fixture
def collection(home: Home) -> Iterator[Collection]:
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(VAE, "vae", "vae", dimensions=2)
        catalogue.encoders.activate(VAE)
        images = [make_new_image(n, (n, 0), photo=photo, format="jpeg") for n, photo in enumerate(PHOTOS, 1)]
        file = FileStat("/copies/1.png", 1, 1)
        images.append(
            make_new_image(1, (1, 0), photo=PhotoMetadata(camera="Nikon", keywords=("blue",)), file=file, format="jpeg")
        )
        paths = [image.file.path for image in images]
        metadata = dict(zip(paths, [*METADATA, {"class": "shirt"}], strict=True))
        catalogue.images.add_batch(images, VAE, "torch", metadata)
        yield Collection(catalogue)


def test_images_are_counted_by_each_value_most_frequent_first(collection: Collection) -> None:
    found = collection.count("class", "format", "rating", "keyword", "year", "month")
    assert list(found) == ["class", "format", "rating", "keyword", "year", "month"]
    assert list(found["class"].items()) == [("shirt", 2), ("dress", 1)]  # a copy of a file counts once
    assert found["format"] == {"jpeg": 4} and found["rating"] == {"3": 1, "5": 1}
    assert found["keyword"] == {"sea": 2, "blue": 1, "red": 1}
    assert found["year"] == {"2024": 2, "1999": 1} and found["month"] == {"1999-12": 1, "2024-05": 1, "2024-06": 1}


def test_metadata_with_the_name_of_a_field_count_instead_of_it(collection: Collection) -> None:
    assert collection.count("camera") == {"camera": {"Leica": 1, "Nikon": 1, "scanner": 1}}


def test_a_filter_and_a_limit_restrict_the_counts(collection: Collection) -> None:
    assert collection.count("class", where="rating>=3") == {"class": {"dress": 1, "shirt": 1}}
    assert collection.count("class", where="keyword=blue") == {"class": {"shirt": 1}}
    counts = count_facets(collection.index, collection.facet_index, names=["keyword"], limit=1)
    assert counts.total == 4 and counts.facets[0].value_count == 3 and len(counts.facets[0].values) == 1
    assert collection.count("class", where="rating=4") == {"class": {}}


def test_every_condition_finds_as_many_images_as_were_counted(collection: Collection) -> None:
    for facet in count_facets(collection.index, collection.facet_index).facets:
        for item in facet.values:
            ids = collection.index.find_matching_ids(make_filter(where=[str(item.condition)]))
            assert ids is not None and len(ids) == item.count, item


def test_without_names_fields_with_values_that_form_classes_are_counted(collection: Collection) -> None:
    assert list(collection.count()) == ["camera", "class", "title", "format", "rating", "year", "month", "keyword"]
    with pytest.raises(BadSetting, match=r"'colour'.*year, month, format, camera"):
        collection.count("colour")


def test_the_next_counts_have_what_was_committed(collection: Collection) -> None:
    assert collection.count("class")["class"]["shirt"] == 2
    collection.catalogue.metadata.set_for_image(4, {"class": "shirt"})
    assert collection.count("class")["class"]["shirt"] == 3
    collection.catalogue.images.delete(1)
    assert collection.count("class")["class"]["shirt"] == 2
    assert collection.count("rating")["rating"] == {"5": 1}
