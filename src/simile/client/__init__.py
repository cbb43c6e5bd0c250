"""A client of the service for Python programs. It needs only the standard library.

>>> from pathlib import Path
>>> from simile.client import Client
>>> with Client("http://127.0.0.1:8000", key="simile_…") as service:
...     result = service.search(Path("query.jpg"), limit=10, where=["class=shirt"])
...     print([(hit["path"], hit["distance"], hit["score"]) for hit in result["hits"]])
...     service.add_image(Path("new.jpg"), metadata={"class": "shirt"})
"""

from simile.client.client import Client
from simile.client.errors import (
    ClientError,
    Conflict,
    NotAllowed,
    NotFound,
    Problem,
    Refused,
    TooMuch,
    Unavailable,
    Unreachable,
)

__all__ = [
    "Client",
    "ClientError",
    "Conflict",
    "NotAllowed",
    "NotFound",
    "Problem",
    "Refused",
    "TooMuch",
    "Unavailable",
    "Unreachable",
]
