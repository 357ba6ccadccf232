#!/bin/sh
# Serves the models beside it with Triton. Options of tritonserver may follow, and win: ./launch --grpc-port=9001
#   ADDRESS        what it listens on: 127.0.0.1 is this machine alone, 0.0.0.0 everybody  [127.0.0.1]
#   GRPC_PORT, HTTP_PORT, METRICS_PORT  [8001, 8000, 8002]
#   EXIT_TIMEOUT   seconds that open sequences have after SIGTERM  [30]
#   TRITONSERVER   the program  [tritonserver]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
address=${ADDRESS:-127.0.0.1}
if [ -e "$here/build" ] && ! ls "$here"/models/*/1/model.plan >/dev/null 2>&1; then
  echo "There is no model.plan yet: run $here/build on the machine with the GPU." >&2
  exit 1
fi
server=${TRITONSERVER:-tritonserver}
if ! command -v "$server" >/dev/null; then
  echo "$server is not here: put Triton's tritonserver on PATH, name it with TRITONSERVER, or use its container as $here/README.md says." >&2
  exit 1
fi
# With an allocation pool smaller than the requests in flight, Triton 2.51 crashed under load.
exec "$server" \
  --model-repository="$here/models" \
  --grpc-address="$address" --http-address="$address" --metrics-address="$address" \
  --grpc-port="${GRPC_PORT:-8001}" --http-port="${HTTP_PORT:-8000}" --metrics-port="${METRICS_PORT:-8002}" \
  --grpc-infer-allocation-pool-size=@REQUESTS@ \
  --exit-timeout-secs="${EXIT_TIMEOUT:-30}" \
  --backend-config=python,shm-default-byte-size=1048576 \
  "$@"
