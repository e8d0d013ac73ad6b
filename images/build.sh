#!/usr/bin/env bash
# Builds both images, pushes them to a registry on this machine (started if need be), and prints what they weigh.
# build/images.env then names both, each tagged with its content, so that a cluster pulls exactly what has changed. The
# tag of the chart's version is pushed beside it, for manifests/install.yaml.
#   images/build.sh          make images
set -euo pipefail
cd "$(dirname "$0")/.."
registry=localhost:5001
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

command -v docker >/dev/null || { echo "images/build.sh: docker is not on PATH; install Docker Engine" >&2; exit 1; }
docker info >/dev/null 2>&1 || { echo "images/build.sh: the Docker daemon does not answer; start it" >&2; exit 1; }

if [ "$(docker inspect -f '{{.State.Running}}' trainyard-registry 2>/dev/null)" != true ]; then
  docker rm -f trainyard-registry >/dev/null 2>&1 || true
  docker run -d --restart=always -p 127.0.0.1:5001:5000 --name trainyard-registry registry:2 >/dev/null
fi

megabytes() { echo $(($(docker image inspect -f '{{.Size}}' "$1") / 1000000)); }

build() {
  local name=$registry/trainyard-$1 content tag
  docker build -f "images/$1.Dockerfile" -t "$name:$version" .
  content=$(docker image inspect -f '{{.Id}}' "$name:$version" | cut -c8-19)
  docker tag "$name:$version" "$name:$content"
  for tag in "$version" "$content"; do docker push -q "$name:$tag" >/dev/null; done
  echo "${1^^}_IMAGE=$name:$content" >> build/images.env
}

mkdir -p build && : > build/images.env
build operator > build/operator.log 2>&1 & beside=$!   # one downloads while the other installs
build trainer
wait $beside || { cat build/operator.log >&2; exit 1; }
base=$(megabytes python:3.11-slim)
for image in operator trainer; do
  size=$(megabytes "$registry/trainyard-$image:$version")
  echo "$image: $size MB, $((size - base)) MB over its base image"
done
