"""A bundle served by NVIDIA Triton: `rnn-export triton`. Sequences of the server are streams of the bundle.

`config` and `pbtxt` write config.pbtxt, `state_io` makes the graph that Triton's onnxruntime
and tensorrt backends run, `model.py.template` is what its python backend loads (rnn_export.runtime.serve.triton_model
does the work), and `repository` puts them together. What goes over the wire: rnn_export.runtime.backends.remote.wire.
"""
