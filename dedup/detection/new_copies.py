"""Find the copies of images that were added to the index since an earlier time."""

from __future__ import annotations

from collections.abc import Iterator

from simile.core.errors import NoSuchImage, UnreadableImage
from simile.dedup.detection.lookup import ImageMatch, find_existing_copies
from simile.search.searcher import Searcher
from simile.store.catalogue.records import ImageRecord

BLOCK_SIZE = 100  # ids that are read together


def get_last_id(searcher: Searcher) -> int:
    """Return the id of the image that was added last; 0 if there is none."""
    return max(searcher.catalogue.images.get_ids(1, newest_first=True), default=0)


def find_new_copies(searcher: Searcher, last_id: int) -> Iterator[tuple[ImageRecord, ImageMatch]]:
    """Yield each image with a higher id that is a copy of an earlier one, with that; by the rule for uploads.

    An image that differs in what both show, such as an invoice with another amount, is no copy. Files with the same
    bytes are one image, so they are not yielded.

    Args:
        last_id: Images up to this id are not checked. Those that were checked before are earlier ones, too.
    """
    while ids := searcher.catalogue.images.get_ids(BLOCK_SIZE, after_id=last_id):
        last_id = ids[-1]
        for image_id in ids:
            try:
                data, record = searcher.read_file(image_id)
                copies = find_existing_copies(searcher, data, record.paths[0])
            except (NoSuchImage, UnreadableImage):  # deleted or changed meanwhile: the next run reads it again
                continue
            earlier = (copy for copy in copies if copy.image_id < image_id and not copy.changes.is_mutual)
            if (copy := next(earlier, None)) is not None:
                yield record, copy
