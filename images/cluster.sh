#!/usr/bin/env bash
# A kind cluster with Trainyard in it: registry, images, shared storage, chart. Safe to repeat; a repeat brings the
# cluster up to the working tree.
#   images/cluster.sh up | down          make kind-up | kind-down
# KIND_NODE_IMAGE, if set, is the node image to use; otherwise kind's own.
set -euo pipefail
cd "$(dirname "$0")/.."
cluster=trainyard
storage=/tmp/trainyard-kind      # as in kind-config.yaml

say() { echo "kind: $*"; }

up() {
  for program in docker kind kubectl helm; do
    command -v $program >/dev/null || { echo "images/cluster.sh: $program is not on PATH; install it" >&2; exit 1; }
  done
  # Trainer pods run as a numeric user; on a hostPath volume nothing changes owners for them.
  mkdir -p build $storage/default && chmod 0777 $storage $storage/default
  created=
  if ! kind get clusters 2>/dev/null | grep -qx $cluster; then
    kind create cluster --config kind-config.yaml ${KIND_NODE_IMAGE:+--image "$KIND_NODE_IMAGE"} > build/kind.log 2>&1 &
    created=$!   # while images are built
  fi
  images/build.sh || { [ -z "$created" ] || wait $created; exit 1; }
  . build/images.env
  [ -z "$created" ] || wait $created || { cat build/kind.log >&2; exit 1; }
  kubectl="kubectl --context kind-$cluster"

  # To the nodes, localhost:5001 is the registry container, as https://kind.sigs.k8s.io/docs/user/local-registry/ says.
  docker network connect kind trainyard-registry 2>/dev/null || true
  for node in $(kind get nodes --name $cluster); do
    docker exec -i "$node" sh -c 'mkdir -p /etc/containerd/certs.d/localhost:5001 &&
      cat > /etc/containerd/certs.d/localhost:5001/hosts.toml' <<< '[host."http://trainyard-registry:5000"]'
  done

  $kubectl apply -f manifests/kind/storage.yaml
  helm --kube-context kind-$cluster upgrade --install trainyard charts/trainyard \
    --namespace trainyard-system --create-namespace --wait --timeout 120s \
    --set image.repository="${OPERATOR_IMAGE%:*}" --set image.tag="${OPERATOR_IMAGE##*:}" \
    --set trainerImage.repository="${TRAINER_IMAGE%:*}" --set trainerImage.tag="${TRAINER_IMAGE##*:}" || {
    $kubectl -n trainyard-system get pods,events
    $kubectl -n trainyard-system logs deployment/trainyard --tail 20
    exit 1
  } >&2
  say "ready. Next:"
  say "  kubectl config use-context kind-$cluster"
  say "  kubectl apply -f manifests/examples/tiny-pretrain.yaml"
  say "  kubectl get trainingruns -w"
  say "  make kind-down      # removes cluster, registry and $storage"
}

down() {
  # What pods wrote belongs to their user; a node may delete it.
  docker exec $cluster-control-plane sh -c 'rm -rf /var/trainyard/*' 2>/dev/null || true
  kind delete cluster --name $cluster
  docker rm -f -v trainyard-registry >/dev/null 2>&1 || true
  rm -rf $storage
  say "cluster, registry and $storage are gone"
}

case "${1:-}" in
  up) up ;;
  down) down ;;
  *) echo "usage: images/cluster.sh up|down" >&2; exit 2 ;;
esac
