# The project and the versions of requirements.txt, as `make setup` installs them. Weights and results are mounted:
#   docker build -t harmonica .
#   docker run --gpus all -v "$PWD/results:/opt/harmonica/results" -v "$PWD/weights:/opt/harmonica/weights" harmonica \
#       snakemake --cores all results/table1.csv
FROM python:3.11-slim-bookworm

# make, which sets the project up; git, for the commit in the provenance. Debian keeps one version of each.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/harmonica
ENV UV_NO_CACHE=1
COPY . .
RUN make setup

ENV PATH="/opt/harmonica/.venv/bin:$PATH"
CMD ["harmonica", "--help"]
