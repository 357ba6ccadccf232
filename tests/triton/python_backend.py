"""A stand-in for the Python that Triton's python backend gives a model: its module of utilities, requests, a config."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as pb


class Tensor:
    """A named array; strings are bytes in an array of objects."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> np.ndarray:
        return self.array


class TritonError:
    """Why a request was refused."""

    INVALID_ARG = 3

    def __init__(self, message: str, code: int) -> None:
        self.message, self.code = message, code


class Request:
    """A frame of a sequence; `outputs` are the names that it asks for."""

    def __init__(self, sequence: int, x: Any, *, start=False, end=False, seed=b"", outputs=("y",)) -> None:
        controls = {"START": start, "READY": True, "END": end, "CORRID": sequence}
        arrays = {"x": np.asarray(x, np.float32)[None], "rnn_seed": np.array([[seed]], np.object_)}
        arrays |= {name: np.array([[value]]) for name, value in controls.items()}
        self.tensors = {name: Tensor(name, array) for name, array in arrays.items()}
        self.outputs = list(outputs)

    def requested_output_names(self) -> list[str]:
        return self.outputs


class Response:
    """A model's answer to a request."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.error = error
        self.outputs = {tensor.name: tensor.array for tensor in output_tensors}


class Host:
    """A model of a repository, in this process; `log` has what it said."""

    def __init__(self, repository: Path, name: str) -> None:
        self.log: list[str] = []
        self.utils = SimpleNamespace(
            Tensor=Tensor,
            TritonError=TritonError,
            InferenceResponse=Response,
            Logger=SimpleNamespace(log_info=self.log.append),
            get_input_tensor_by_name=lambda request, name: request.tensors[name],
        )
        self.folder = repository / "models" / name
        config = text_format.Parse((self.folder / "config.pbtxt").read_text(), pb.ModelConfig())
        self.arguments = {
            "model_config": json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)),
            "model_repository": str(self.folder),
            "model_version": "1",
            "model_name": name,
        }

    def start(self) -> Host:
        """Import its model.py, as the server does, and initialize it; the caller takes the utilities away again."""
        sys.modules["triton_python_backend_utils"] = self.utils  # type: ignore[assignment]
        spec = importlib.util.spec_from_file_location("model", self.folder / "1" / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.TritonPythonModel()
        self.model.initialize(self.arguments)
        return self

    def step(self, *requests: Request) -> list[Response]:
        """The responses to requests that share a step."""
        responses: list[Response] = self.model.execute(requests)
        return responses
