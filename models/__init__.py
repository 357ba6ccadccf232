"""Recurrent cells and layers that read like their equations, and the lifting of any model into one pure step."""

from rnn_export.models.gru import CustomGRU, CustomGRUCell
from rnn_export.models.lift import StreamingModel, lift
from rnn_export.models.lstm import CustomLSTM, CustomLSTMCell
from rnn_export.models.simple_rnn import SimpleRNN, SimpleRNNCell
from rnn_export.models.weights import load_weights, save_weights

__all__ = [
    "CustomGRU",
    "CustomGRUCell",
    "CustomLSTM",
    "CustomLSTMCell",
    "SimpleRNN",
    "SimpleRNNCell",
    "StreamingModel",
    "lift",
    "load_weights",
    "save_weights",
]
