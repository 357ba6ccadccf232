import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from rnn_export.models.gru import CustomGRU
from rnn_export.models.lstm import CustomLSTM
from rnn_export.models.simple_rnn import SimpleRNN
from rnn_export.models.weights import load_weights, save_weights

from ..messages import raises  # noqa: TID252

MODULES = {
    "rnn": lambda: SimpleRNN(3, 4, 2),
    "gru": lambda: CustomGRU(3, 4, 2),
    "gru-after": lambda: CustomGRU(3, 4, 2, reset_after=True),
    "lstm": lambda: CustomLSTM(3, 4, 2),
    "buffers": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
}
every_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refuses(module: nn.Module, path: Path, *message: object) -> None:
    """Loading raises this message, an id and values, and the module is what it was."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with raises(*message):
        load_weights(module, path)
    assert same(before, module.state_dict())


@every_module
def test_saved_weights_load_again(make, tmp_path):
    source, target = make(), make()
    save_weights(source, tmp_path / "w.safetensors")
    load_weights(target, str(tmp_path / "w.safetensors"))
    assert same(source.state_dict(), target.state_dict())


@every_module
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_torch_checkpoints_load(make, wrap, suffix, tmp_path):
    source, target = make(), make()
    torch.save(wrap(source.state_dict()), tmp_path / f"w{suffix}")
    load_weights(target, tmp_path / f"w{suffix}")
    assert same(source.state_dict(), target.state_dict())


def test_values_are_cast_to_the_modules_dtype(tmp_path):
    source, target = CustomGRU(3, 4, dtype=torch.float64), CustomGRU(3, 4)
    save_weights(source, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert same(source.float().state_dict(), target.state_dict())


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    source, target, path = Tied(), Tied(), tmp_path / "w.safetensors"
    save_weights(source, path)
    assert load_file(path).keys() == {"embed.weight", "head.bias"}
    load_weights(target, path)
    assert same(source.state_dict(), target.state_dict())
    assert target.head.weight is target.embed.weight


def test_a_tied_file_does_not_fill_an_untied_module(tmp_path):
    save_weights(Tied(), tmp_path / "w.safetensors")
    target = Tied()
    target.head.weight = nn.Parameter(torch.zeros(5, 4))
    refuses(target, tmp_path / "w.safetensors", "weights-do-not-fit", "missing: head.weight")


def test_a_view_that_safetensors_leaves_out_is_not_missing(tmp_path):
    def views() -> nn.Module:
        module = nn.Module()
        module.register_buffer("whole", torch.randn(6))
        module.register_buffer("part", module.whole[:2])
        return module

    source, target = views(), views()
    save_model(source, str(tmp_path / "w.safetensors"))
    load_weights(target, tmp_path / "w.safetensors")
    assert same(source.state_dict(), target.state_dict())


def test_saving_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_text("old")
    save_weights(SimpleRNN(3, 4, 2), path)
    assert os.listdir(tmp_path) == ["w.safetensors"]
    assert load_file(path).keys() == {"Wxh", "Whh", "Why", "bh", "by"}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    path = tmp_path / "w.safetensors"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", full)
    with raises("weights-not-written", "w.safetensors", "No space left on device"):
        save_weights(SimpleRNN(3, 4, 2), path)
    assert os.listdir(tmp_path) == ["w.safetensors"]
    assert path.read_text() == "old"


def test_saving_elsewhere_is_refused(tmp_path):
    with raises("weights-suffix-unwritable", "w.pt"):
        save_weights(SimpleRNN(3, 4, 2), tmp_path / "w.pt")
    with raises("weights-not-written", "w.safetensors", "No such file or directory"):
        save_weights(SimpleRNN(3, 4, 2), tmp_path / "no" / "w.safetensors")
    with raises("weights-not-dense", "'Wxh'"):
        save_weights(SimpleRNN(3, 4, 2, device="meta"), tmp_path / "w.safetensors")


def test_all_that_does_not_fit_is_named_at_once(tmp_path):
    state = SimpleRNN(3, 4, 2).state_dict()
    state["extra"] = state.pop("bh")
    state["Why"] = torch.zeros(5, 4)
    state["by"] = torch.zeros(2, dtype=torch.complex64)
    save_file(state, tmp_path / "w.safetensors")
    refuses(
        SimpleRNN(3, 4, 2),
        tmp_path / "w.safetensors",
        "weights-do-not-fit",
        "SimpleRNN: missing: bh; unexpected: extra; unfitting: Why is float32 [5, 4] but must be float32 [2, 4]",
        "by is complex64 [2] but must be float32 [2]",
    )


def test_missing_files_and_other_kinds_are_refused(tmp_path):
    rnn = SimpleRNN(3, 4, 2)
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "w.bin").touch()
    refuses(rnn, tmp_path / "none.pt", "weights-file-missing", "none.pt")
    refuses(rnn, tmp_path / "folder.pt", "weights-file-missing", "folder.pt")
    refuses(rnn, tmp_path / "w.bin", "weights-suffix-unknown", "w.bin", "safetensors, .pt, .pth or .ckpt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("content", [b"", b"no tensors", b"PK\x03\x04" + bytes(60)], ids=["empty", "text", "zip"])
def test_damaged_files_are_refused(suffix, content, tmp_path):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    refuses(SimpleRNN(3, 4, 2), path, "weights-file-damaged", f"w{suffix}")


def test_a_truncated_file_is_refused(tmp_path):
    for name in ("w.safetensors", "w.pt"):
        path = tmp_path / name
        rnn = SimpleRNN(3, 4, 2)
        save_file(rnn.state_dict(), path) if path.suffix == ".safetensors" else torch.save(rnn.state_dict(), path)
        path.write_bytes(path.read_bytes()[:-40])
        refuses(rnn, path, "weights-file-damaged", name)


class Bomb:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("save", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data))])
def test_pickled_code_is_refused_and_not_run(save, tmp_path):
    save({"Wxh": Bomb(tmp_path / "ran")}, tmp_path / "w.pt")
    refuses(SimpleRNN(3, 4, 2), tmp_path / "w.pt", "weights-file-damaged")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(SimpleRNN(3, 4, 2), tmp_path / "w.pt")
    refuses(SimpleRNN(3, 4, 2), tmp_path / "w.pt", "weights-file-damaged")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([torch.zeros(2)], ("weights-not-a-dict", "list")),
        ({"epoch": 3, "model": {}}, ("weights-dict-not-dense", "'epoch', 'model'")),
        ({"Wxh": torch.zeros(2).to_sparse()}, ("weights-dict-not-dense", "'Wxh'")),
        ({"Wxh": torch.zeros(2, device="meta")}, ("weights-dict-not-dense", "'Wxh'")),
        ({0: torch.zeros(2)}, ("weights-dict-not-dense", "0")),
        ({"state_dict": {"Wxh": "text"}}, ("weights-dict-not-dense", "'Wxh'")),
    ],
    ids=["list", "checkpoint", "sparse", "meta", "number", "text"],
)
def test_other_contents_are_refused(data, message, tmp_path):
    torch.save(data, tmp_path / "w.pt")
    refuses(SimpleRNN(3, 4, 2), tmp_path / "w.pt", *message)
