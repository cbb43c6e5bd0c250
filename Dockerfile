FROM python:3.11-slim

# An extra package index for torch, such as PyTorch's own CPU index: makes the image small.
ARG TORCH_INDEX=""
# Extras, such as "postgres" for a catalogue that several hosts share.
ARG EXTRAS=""

WORKDIR /app

# Dependencies first: they change rarely, and this is the large layer.
COPY pyproject.toml constraints.txt ./
RUN python -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print('\n'.join(p['dependencies'] + [d for e in sys.argv[1].split() for d in p['optional-dependencies'][e]]))" "$EXTRAS" > requirements.txt \
    && pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r requirements.txt

COPY README.md LICENSE ./
COPY src src
COPY core core
COPY images images
COPY models models
COPY store store
COPY search search
COPY indexer indexer
COPY evaluation evaluation
COPY dedup dedup
COPY explore explore
COPY service service
COPY cli cli
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps .

# For captions of contact sheets: Pillow's own font has only ASCII letters.
RUN apt-get update && apt-get install -y --no-install-recommends fonts-dejavu-core && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 simile && mkdir /data && chown simile /data
USER simile
WORKDIR /data
# Two malloc arenas: with one for each thread, freed memory stays scattered over them. `simile serve` sets more itself.
ENV SIMILE_HOME=/data SIMILE_HOST=0.0.0.0 SIMILE_PORT=8000 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MALLOC_ARENA_MAX=2
VOLUME /data
EXPOSE 8000

HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/livez', timeout=4)"]

# The service listens on all interfaces; without a key (`simile keys create`) or SIMILE_INSECURE=1 it refuses to start. It writes to
# /data and /tmp only, so the rest may be read-only. On SIGTERM it finishes accepted requests.
CMD ["simile", "serve"]
