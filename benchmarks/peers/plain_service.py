"""A minimal service of FastAPI, eager torch and FAISS: the peer of benchmarks/service/load.py.

    python benchmarks/peers/plain_service.py ENCODER VECTORS PORT

ENCODER is an encoder's folder, VECTORS a .npy (n, d). A handler decodes, encodes and searches for one image.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import faiss
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

from simile.models.inference.encoder import TrainedEncoder

folder, vectors, port = sys.argv[1:]
encoder = TrainedEncoder.load(Path(folder), "cpu", "torch")
network, size = encoder.network, encoder.preprocessing.image_size
rows = np.load(vectors)
index = faiss.IndexFlatL2(rows.shape[1])
index.add(rows)
app = FastAPI()


def to_tensor(data: bytes) -> torch.Tensor:
    """Decode an image to (1, 3, S, S) in [0, 1]."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


@app.post("/search")
def search(file: UploadFile, limit: int = 10) -> dict[str, list[dict[str, float]]]:
    """Return the nearest images."""
    with torch.inference_mode():
        mu, _ = network.encode(to_tensor(file.file.read()))
    distances, ids = index.search(mu.numpy(), limit)
    hits = zip(ids[0].tolist(), np.sqrt(distances[0]).tolist(), strict=True)
    return {"hits": [{"image_id": image_id, "distance": distance} for image_id, distance in hits]}


uvicorn.run(app, port=int(port), log_level="warning")
