"""A type checker must refuse every line that ends in `# refused`, and no other."""

import numpy as np
from torch import nn, zeros

import rnn_export
from rnn_export import Batcher, export, load

load("vad.rnnx", backend="onnxrt")  # refused
load("vad.rnnx", backend="grpc://server:8001/vad")  # refused
load("vad.rnnx", precision="fp99")  # refused
load("vad.rnnx", on_nan="reset")  # refused
export(nn.Linear(2, 2), (zeros(1, 2),), "vad.rnnx", precision="fp99")  # refused
rnn_export.export(nn.Linear(2, 2), (zeros(1, 2),), "vad.rnnx", precision="fp99")  # refused
rnn_export.load("vad.rnnx", precision="fp99")  # refused

engine = load("vad.rnnx")
engine.pool(on_nan="drop")  # refused
engine.stream(batch="two")  # refused

one = load("vad.rnnx").with_one_output()
one.stream().step(np.zeros(40)).max()  # refused
one.stream().step(np.zeros(40), out={"y": np.zeros(1)})  # refused
one.pool().step([1], np.zeros((1, 40)))["y"].items()  # refused
one.pool().metrics()["streams"]  # refused
one.pool().health(1)["p50"]  # refused

many = load("tagger.rnnx").with_named_outputs()
many.pool().step([1], np.zeros((1, 40))).shape  # refused
many.stream().run(np.zeros((9, 40)))["tag"].shape  # refused
Batcher(many.pool()).submit(1, np.zeros(40)).result().keys()  # refused
