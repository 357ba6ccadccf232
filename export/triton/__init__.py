"""A bundle served by NVIDIA Triton: `rnn-export triton`. Sequences of the server are streams of the bundle.

`config` and `pbtxt` write config.pbtxt, `state_io` makes the graph that Triton's onnxruntime
and tensorrt backends run, its python backend loads `model.py.template` (rnn_export.runtime.serve.triton_model
does the work), and `repository` puts them together. The wire format: rnn_export.runtime.backends.remote.wire.
"""
