# syntax=docker/dockerfile:1

# The page.
FROM node:22-bookworm-slim AS page
WORKDIR /ui
COPY ui/package.json ui/package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci --no-audit --no-fund
COPY ui/ ./
RUN npm run build

# The binary, with the page and the models inside. Debian's release is named here and below: a binary
# linked against a newer libc would not start in the last stage.
FROM rust:1.95-slim-bookworm AS binary
WORKDIR /src
COPY . .
COPY --from=page /ui/dist ui/dist
# Both folders are caches and gone after the step, so the binary is copied out within it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin tidegate \
    && cp target/release/tidegate /usr/local/bin/tidegate

# What runs: the binary, a user without rights, one volume.
FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin tidegate \
    && install -d -o tidegate -g tidegate /data
COPY --from=binary /usr/local/bin/tidegate /usr/local/bin/tidegate
USER tidegate
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["tidegate", "health", "--url", "http://127.0.0.1:8080"]
ENTRYPOINT ["tidegate"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--data-dir", "/data"]
