-- The catalogue of a home as the first version of simile made it, with the rows that it held: six pictures of which
-- one was deleted and one was uploaded, four of them in a segment. ":name" stands for what the test makes (vectors,
-- files and the places they lie in). Never edited to fit later code: homes like this one are out there.
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE encoders (
    fingerprint VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    recipe VARCHAR NOT NULL,
    dimensions INTEGER NOT NULL,
    index_dims JSON,
    metric VARCHAR NOT NULL,
    created_at DATETIME NOT NULL,
    CONSTRAINT pk_encoders PRIMARY KEY (fingerprint),
    CONSTRAINT ck_encoders_metric CHECK (metric IN ('l2', 'cosine'))
);
CREATE TABLE images (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    sha256 VARCHAR NOT NULL,
    size BIGINT NOT NULL,
    format VARCHAR NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    created_at DATETIME NOT NULL,
    CONSTRAINT uq_images_sha256 UNIQUE (sha256)
);
CREATE TABLE locations (
    id INTEGER NOT NULL,
    image_id INTEGER NOT NULL,
    path VARCHAR NOT NULL,
    mtime_ns BIGINT NOT NULL,
    size BIGINT NOT NULL,
    CONSTRAINT pk_locations PRIMARY KEY (id),
    CONSTRAINT fk_locations_image_id_images FOREIGN KEY(image_id) REFERENCES images (id) ON DELETE CASCADE,
    CONSTRAINT uq_locations_path UNIQUE (path)
);
CREATE INDEX ix_locations_image_id ON locations (image_id);
CREATE TABLE embeddings (
    image_id INTEGER NOT NULL,
    encoder VARCHAR NOT NULL,
    mu BLOB NOT NULL,
    log_variance BLOB,
    reconstruction_error DOUBLE,
    runtime VARCHAR NOT NULL,
    change BIGINT NOT NULL,
    CONSTRAINT pk_embeddings PRIMARY KEY (image_id, encoder),
    CONSTRAINT fk_embeddings_image_id_images FOREIGN KEY(image_id) REFERENCES images (id) ON DELETE CASCADE,
    CONSTRAINT fk_embeddings_encoder_encoders FOREIGN KEY(encoder) REFERENCES encoders (fingerprint)
);
CREATE INDEX ix_embeddings_change ON embeddings (change);
CREATE TABLE runs (
    id INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    started_at DATETIME NOT NULL,
    finished_at DATETIME,
    status VARCHAR NOT NULL,
    counts JSON NOT NULL,
    settings JSON NOT NULL,
    CONSTRAINT pk_runs PRIMARY KEY (id),
    CONSTRAINT ck_runs_status CHECK (status IN ('running', 'finished', 'failed', 'interrupted'))
);
CREATE TABLE failures (
    id INTEGER NOT NULL,
    run INTEGER NOT NULL,
    path VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    CONSTRAINT pk_failures PRIMARY KEY (id),
    CONSTRAINT fk_failures_run_runs FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
);
CREATE INDEX ix_failures_run ON failures (run);
CREATE TABLE segments (
    id INTEGER NOT NULL,
    encoder VARCHAR NOT NULL,
    file VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    rows BIGINT NOT NULL,
    change BIGINT NOT NULL,
    sha256 VARCHAR NOT NULL,
    created_at DATETIME NOT NULL,
    CONSTRAINT pk_segments PRIMARY KEY (id),
    CONSTRAINT fk_segments_encoder_encoders FOREIGN KEY(encoder) REFERENCES encoders (fingerprint)
);
CREATE TABLE deletions (
    image_id INTEGER NOT NULL,
    change BIGINT NOT NULL,
    CONSTRAINT pk_deletions PRIMARY KEY (image_id)
);
CREATE INDEX ix_deletions_change ON deletions (change);
CREATE TABLE state (
    id INTEGER NOT NULL,
    changes BIGINT NOT NULL,
    active_encoder VARCHAR,
    segment_id INTEGER,
    CONSTRAINT pk_state PRIMARY KEY (id),
    CONSTRAINT fk_state_active_encoder_encoders FOREIGN KEY(active_encoder) REFERENCES encoders (fingerprint),
    CONSTRAINT fk_state_segment_id_segments FOREIGN KEY(segment_id) REFERENCES segments (id),
    CONSTRAINT ck_state_single_row CHECK (id = 1)
);

INSERT INTO alembic_version VALUES ('2026_11_22_first_schema');
INSERT INTO encoders VALUES (:encoder, 'vae', 'vae', 4, NULL, 'cosine', '2026-11-22 10:00:00.000000');
INSERT INTO images VALUES (1, :sha_1, :size_1, 'PNG', 16, 16, '2026-11-22 10:01:00.000000');
INSERT INTO images VALUES (2, :sha_2, :size_2, 'PNG', 16, 16, '2026-11-22 10:01:00.000000');
INSERT INTO images VALUES (4, :sha_4, :size_4, 'PNG', 16, 16, '2026-11-22 10:01:00.000000');
INSERT INTO images VALUES (5, :sha_5, :size_5, 'PNG', 16, 16, '2026-11-22 10:02:00.000000');
INSERT INTO images VALUES (6, :sha_6, :size_6, 'PNG', 16, 16, '2026-11-22 10:03:00.000000');
INSERT INTO locations VALUES (1, 1, :path_1, 1763805600000000000, 800);
INSERT INTO locations VALUES (2, 2, :path_2, 1763805600000000000, 800);
INSERT INTO locations VALUES (4, 4, :path_4, 1763805600000000000, 800);
INSERT INTO locations VALUES (5, 5, :upload, 1763805660000000000, 800);
INSERT INTO locations VALUES (6, 6, :path_6, 1763805720000000000, 800);
INSERT INTO locations VALUES (7, 1, :copy, 1763805720000000000, 800);
INSERT INTO embeddings VALUES (1, :encoder, :mu_1, :log_variance_1, 0.02, 'eager-fp32', 3);
INSERT INTO embeddings VALUES (2, :encoder, :mu_2, :log_variance_2, 0.03, 'eager-fp32', 3);
INSERT INTO embeddings VALUES (4, :encoder, :mu_4, :log_variance_4, 0.01, 'eager-fp32', 3);
INSERT INTO embeddings VALUES (5, :encoder, :mu_5, :log_variance_5, NULL, 'eager-fp32', 4);
INSERT INTO embeddings VALUES (6, :encoder, :mu_6, NULL, NULL, 'eager-fp32', 5);
INSERT INTO runs VALUES (1, 'index', '2026-11-22 10:01:00.000000', '2026-11-22 10:01:30.000000', 'finished',
    '{"run_id": 1, "new": 4, "failed": 1}', '{"sources": ["/photos"], "prune": false, "encoder": null}');
INSERT INTO runs VALUES (2, 'index', '2026-11-22 10:03:00.000000', NULL, 'running', '{}', '{}');
INSERT INTO failures VALUES (1, 1, '/photos/broken.jpg', 'not a picture');
INSERT INTO segments VALUES (1, :encoder, :segment, 'flat', 4, 3, :segment_sha256, '2026-11-22 10:01:30.000000');
INSERT INTO deletions VALUES (3, 6);
INSERT INTO state VALUES (1, 7, :encoder, 1);
