"""A bundle served by NVIDIA Triton: `rnn-export triton`. Sequences of the server are streams of the bundle.

`wire` says what goes over the wire, `config` and `pbtxt` write it down for Triton, `movable` makes the graph that its
onnxruntime and tensorrt backends run, `model` is what its python backend runs, and `repository` puts them together.
"""
