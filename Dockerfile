# The image: the binary, its bill of materials, two empty directories for what is mounted, and the data directory. No
# shell, no package manager, uid 65532; it runs with a read-only root, without capabilities and without /tmp.
#
#   docker build -t bridgehead .                                 compiles (cached between builds)
#   docker build -t bridgehead --target prebuilt .               takes target/release/bridgehead as it is
#
# Built again from the same sources, base images and SOURCE_DATE_EPOCH it has the same layers: with BuildKit
# `--output type=image,rewrite-timestamp=true`, with Buildah and Podman `--timestamp "$SOURCE_DATE_EPOCH"`.
#
# A binary that was built elsewhere must fit the C library of the runtime image (Debian 12).

ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# --- the crates, anew only when Cargo.lock changes
FROM ${RUST_IMAGE} AS crates
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
RUN cargo fetch --locked --target "$(rustc --print host-tuple)"

# --- the binary
FROM crates AS compiled
COPY .ci/build .ci/build
COPY build.rs build.rs
COPY openapi openapi
COPY src src
ARG SOURCE_DATE_EPOCH=0
RUN --mount=type=cache,id=bridgehead-target,target=/src/target,sharing=locked \
    CARGO_INCREMENTAL=0 .ci/build \
    && install -m 0755 target/release/bridgehead /bridgehead \
    && touch -d "@$SOURCE_DATE_EPOCH" /bridgehead

# --- what goes into the image beside it, with the owners and modes that it has there
FROM crates AS layout
COPY .ci/sbom.awk .ci/sbom.awk
COPY LICENSE LICENSE-APACHE LICENSE-MIT /out/root/usr/share/bridgehead/
ARG SOURCE_DATE_EPOCH=0
RUN cargo tree --locked --edges normal --prefix depth --format '|{p}|{l}' >/tmp/tree \
    && awk -f .ci/sbom.awk Cargo.lock /tmp/tree >/out/root/usr/share/bridgehead/sbom.cdx.json \
    && chmod 0644 /out/root/usr/share/bridgehead/* \
    && mkdir -p /out/root/usr/local/bin /out/root/etc/bridgehead/config /out/root/etc/bridgehead/secrets /out/data/bridgehead \
    && chmod 0700 /out/data/bridgehead \
    && find /out -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

# --- the image without the binary
FROM ${RUNTIME_IMAGE} AS bare
ARG RUNTIME_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Bridgehead" \
      org.opencontainers.image.description="The SMTP relay that you configure by API, that tells you where your mail is, and that never loses it after 250" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${RUNTIME_IMAGE}"
COPY --from=layout /out/root/ /
COPY --from=layout --chown=65532:65532 /out/data/ /var/lib/
ENV BRIDGEHEAD_DATA_DIR=/var/lib/bridgehead \
    BRIDGEHEAD_API_LISTEN=0.0.0.0:8025 \
    BRIDGEHEAD_HEALTH_LISTEN=0.0.0.0:8026 \
    BRIDGEHEAD_SECRETS_DIR=/etc/bridgehead/secrets \
    BRIDGEHEAD_LOG_FORMAT=json
USER 65532:65532
WORKDIR /var/lib/bridgehead
VOLUME ["/var/lib/bridgehead"]
# SMTP, SMTP in TLS, submission; REST; health and metrics
EXPOSE 2525 2465 2587 8025 8026
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["/usr/local/bin/bridgehead", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/bridgehead"]

# --- with a binary that is there
FROM bare AS prebuilt
COPY target/release/bridgehead /usr/local/bin/bridgehead

# --- with the one that was made here
FROM bare
COPY --from=compiled /bridgehead /usr/local/bin/bridgehead
