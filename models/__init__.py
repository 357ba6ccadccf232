"""Recurrent cells and layers that read like their equations, and their weights in and out of files."""

from rnn_export.models.gru import CustomGRU, CustomGRUCell
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
    "load_weights",
    "save_weights",
]
