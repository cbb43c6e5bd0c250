"""Attributes in a store of objects: learned on one host, used and removed on the other."""

from __future__ import annotations

import numpy as np
import pytest

from simile.core.errors import BadSetting, ObjectsUnavailable
from simile.search import attributes
from simile.search.attributes import Attribute
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from simile.store.object_transfer import share_files
from tests.support.object_store import ObjectServer

ENCODER = "a" * 64


@pytest.fixture
def hosts(home: Home, object_server: ObjectServer) -> tuple[Home, Home]:
    return tuple(Home(home.root / name, home.url, object_server.url).create() for name in ("one", "two"))  # type: ignore[return-value]


def make_attribute(name: str = "late", value: float = 1.0) -> Attribute:
    counts = {"positives": 3, "negatives": 3, "contradictory": 0, "unreadable": 0, "seed": 0}
    arrays = dict.fromkeys(("raw", "whitened", "centre"), np.full(4, value))
    return Attribute(name=name, encoder=ENCODER, auc={"raw": 1.0}, spread={"raw": 0.0}, **counts, **arrays)


def test_an_attribute_of_one_host_is_used_and_removed_by_the_other(hosts: tuple[Home, Home]) -> None:
    one, two = hosts
    path = attributes.save_attribute(one, make_attribute())
    assert path.parent == one.attributes / ENCODER
    with pytest.raises(BadSetting, match="late exists already"):
        attributes.save_attribute(two, make_attribute())
    assert attributes.list_attribute_names(two, ENCODER) == ["late"]
    assert attributes.load_attribute(two, ENCODER, "late").positives == 3
    attributes.remove_attribute(two, ENCODER, "late")
    assert attributes.load_attributes(one, ENCODER) == []
    with pytest.raises(BadSetting, match="no attribute late"):
        attributes.load_attribute(one, ENCODER, "late")
    attributes.save_attribute(two, make_attribute(value=2.0))
    assert attributes.load_attribute(one, ENCODER, "late").raw[0] == 2.0


def test_a_damaged_copy_of_an_attribute_is_fetched_again(hosts: tuple[Home, Home]) -> None:
    one, _ = hosts
    path = attributes.save_attribute(one, make_attribute())
    path.write_bytes(b"damaged")
    assert attributes.load_attribute(one, ENCODER, "late").raw[0] == 1.0


def test_without_the_store_attributes_that_were_fetched_are_used(
    hosts: tuple[Home, Home], object_server: ObjectServer
) -> None:
    one, two = hosts
    attributes.save_attribute(one, make_attribute())
    attributes.load_attributes(two, ENCODER)
    object_server.stop()
    assert attributes.load_attribute(two, ENCODER, "late").raw[0] == 1.0
    for change in (
        lambda: attributes.remove_attribute(two, ENCODER, "late"),
        lambda: attributes.save_attribute(two, make_attribute("early")),
    ):
        with pytest.raises(ObjectsUnavailable):
            change()
    object_server.start()
    with Catalogue(two) as catalogue:
        share_files(catalogue)
    assert attributes.list_attribute_names(one, ENCODER) == ["late"]


def test_attributes_of_a_home_move_to_the_store(home: Home, object_server: ObjectServer) -> None:
    attributes.save_attribute(home, make_attribute())
    shared = Home(home.root, objects_url=object_server.url)
    with Catalogue(shared) as catalogue:
        catalogue.encoders.register(ENCODER, "first", "vae", dimensions=4)
        share_files(catalogue)
        share_files(catalogue)
    assert len(object_server.names("attributes")) == 1
    other = Home(home.root / "other", objects_url=object_server.url)
    assert attributes.load_attribute(other, ENCODER, "late").raw[0] == 1.0
