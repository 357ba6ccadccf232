#!/bin/sh
# Builds the plan of the model beside it with trtexec, which comes with TensorRT. A plan runs on the kind of GPU and
# with the TensorRT that it was built with alone: take the version of the Triton that will serve it.
# Not run on hardware by rnn-export.
set -eu
cd "$(dirname "$0")/models/@NAME@/1"
trtexec=${TRTEXEC:-trtexec}
if ! command -v "$trtexec" >/dev/null; then
  echo "$trtexec is not here: it comes with TensorRT. Put it on PATH, or name it with TRTEXEC." >&2
  exit 1
fi
exec "$trtexec" @WORDS@ "$@"
