"""Sidecars: XMP files of images. Their names, and how a rating and keywords are added to one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from xml.dom.minidom import Document, Element, Node, parseString
from xml.parsers.expat import ExpatError

from simile.core.errors import UnreadableImage
from simile.images.metadata.xmp import MAX_XMP_BYTES
from simile.images.sources.folders import SIDECAR_SUFFIX

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_DC = "http://purl.org/dc/elements/1.1/"
_XMLNS = "http://www.w3.org/2000/xmlns/"
_EMPTY_PACKET = (
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n <rdf:RDF xmlns:rdf="{_RDF}">\n'
    f'  <rdf:Description rdf:about="" xmlns:xmp="{_XMP}" xmlns:dc="{_DC}"/>\n </rdf:RDF>\n</x:xmpmeta>\n'
).encode()


def get_sidecar_paths(path: str) -> tuple[str, str]:
    """Return the names of an image's sidecars: `photo.xmp`, then `photo.jpg.xmp`, which wins."""
    return os.path.splitext(path)[0] + SIDECAR_SUFFIX, path + SIDECAR_SUFFIX  # noqa: PTH122  # for every file


def add_to_xmp(packet: bytes | None, name: str, rating: int | None, keywords: Iterable[str]) -> bytes:
    """Return an XMP document with a rating and further keywords; everything else stays.

    Args:
        packet: The document; None: a new one.
        name: The file's name, for the error.
        rating: None: the rating stays.
        keywords: Those that the document has already are not repeated.

    Raises:
        UnreadableImage: The document is too long, is damaged, is no XMP, or has a document type.
    """
    document = _parse(_EMPTY_PACKET if packet is None else packet, name)
    descriptions = document.getElementsByTagNameNS(_RDF, "Description")
    if not descriptions:
        raise UnreadableImage(name, "it is no XMP: it has no rdf:Description")
    if rating is not None:
        _set_rating(document, descriptions, str(rating))
    _add_keywords(document, descriptions[0], list(keywords))
    return document.toxml(encoding="utf-8")


def _parse(packet: bytes, name: str) -> Document:
    # A document type could define entities that expand to gigabytes; XMP has none.
    if len(packet) > MAX_XMP_BYTES or b"<!DOCTYPE" in packet:
        raise UnreadableImage(name, "it is no XMP document of at most 2 MiB without a document type")
    try:
        return parseString(packet.rstrip(b"\0"))
    except (ExpatError, ValueError, LookupError) as error:
        raise UnreadableImage(name, f"it is no XMP document ({error})") from None


def _set_rating(document: Document, descriptions: list[Element], rating: str) -> None:
    """Replace the rating, in whichever of the two forms of XMP it is; add it if there is none."""
    for description in descriptions:
        if attribute := description.getAttributeNodeNS(_XMP, "Rating"):
            attribute.value = rating
            return
        for element in description.getElementsByTagNameNS(_XMP, "Rating"):
            for child in list(element.childNodes):
                element.removeChild(child)
            element.appendChild(document.createTextNode(rating))
            return
    prefix = _bind_prefix(descriptions[0], "xmp", _XMP)
    descriptions[0].setAttributeNS(_XMP, f"{prefix}:Rating", rating)


def _add_keywords(document: Document, description: Element, keywords: list[str]) -> None:
    subjects = document.getElementsByTagNameNS(_DC, "subject")
    known = {_get_text(item) for subject in subjects for item in subject.getElementsByTagNameNS(_RDF, "li")}
    missing = [keyword for keyword in keywords if keyword not in known]
    if not missing:
        return
    rdf = _bind_prefix(description, "rdf", _RDF)
    if not subjects:
        subject = document.createElementNS(_DC, f"{_bind_prefix(description, 'dc', _DC)}:subject")
        description.appendChild(subject)
    else:
        subject = subjects[0]
    bags = [child for child in _iterate_elements(subject) if child.namespaceURI == _RDF]
    bag = bags[0] if bags else subject.appendChild(document.createElementNS(_RDF, f"{rdf}:Bag"))
    for keyword in missing:
        item = document.createElementNS(_RDF, f"{rdf}:li")
        item.appendChild(document.createTextNode(keyword))
        bag.appendChild(item)


def _bind_prefix(element: Element, preferred: str, namespace: str) -> str:
    """Return a prefix that means the namespace at the element; declare one there if there is none."""
    node: Node | None = element
    hidden: set[str] = set()
    while isinstance(node, Element):
        for attribute in node.attributes.values():
            prefix = attribute.localName
            if attribute.prefix == "xmlns" and prefix not in hidden:
                if attribute.value == namespace:
                    return str(prefix)
                hidden.add(prefix)
        node = node.parentNode
    while preferred in hidden:
        preferred += "1"
    element.setAttributeNS(_XMLNS, f"xmlns:{preferred}", namespace)
    return preferred


def _iterate_elements(element: Element) -> Iterator[Element]:
    return (child for child in element.childNodes if isinstance(child, Element))


def _get_text(element: Element) -> str:
    return "".join(child.data for child in element.childNodes if child.nodeType in (child.TEXT_NODE, 4)).strip()
