"""The command, as a shell calls it: exit codes, messages on stderr, JSON on stdout."""

import json
import os
import pty
import re
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from rnn_export.bundle import open_bundle
from rnn_export.cli.main import COMMANDS, main
from rnn_export.models import save_weights
from rnn_export.runtime.replay.checks import STREAMS

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])

class Last(Net):
    def forward(self, x):
        return super().forward(x)[:, -1]

class Explicit(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(3, 5)

    def forward(self, x, h):
        h = self.cell(x, h)
        return h * 2, h

class Sound(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(160, 5)

    def forward(self, samples, h):
        h = self.cell(samples, h)
        return h.mean(1, keepdim=True), h

class Talks(Explicit):
    def forward(self, x, h):
        print("stepping")
        return super().forward(x, h)

def talks():
    print("loading")
    return Talks().eval(), (torch.zeros(1, 3), torch.zeros(1, 5)), {"states": {"h": 1}}

def leaves():
    raise SystemExit(3)

def net():
    return Net().eval(), (torch.zeros(1, 4, 3),)

def last():
    return Last().eval(), (torch.zeros(1, 4, 3),)

def explicit():
    return Explicit().eval(), (torch.zeros(1, 3), torch.zeros(1, 5))

def sound():
    return Sound().eval(), (torch.zeros(1, 160), torch.zeros(1, 5)), {"states": {"h": 1}, "sample_rate": 16000}

def dropout():
    return nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), (torch.zeros(2, 4, 3),)

def raises():
    return 1 / 0

def nothing():
    return None

def typo():
    return Net().eval(), (torch.zeros(1, 4, 3),), {"time_axes": 1}

def strided():
    return nn.Sequential(nn.Conv1d(2, 3, 4, 4)).eval(), (torch.zeros(1, 2, 32),)

def bidirectional():
    return nn.GRU(3, 5, bidirectional=True).eval(), (torch.zeros(4, 2, 3),)
"""

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    (path / "nets.py").write_text(FACTORY)
    return path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)
    return lambda *arguments, **more: CliRunner().invoke(main, [str(a) for a in arguments], **more)


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    made = CliRunner().invoke(main, ["export", f"{folder}/nets.py:net", "-o", f"{folder}/net.rnnx", "--steps", "32"])
    assert made.exit_code == 0, made.output
    return folder / "net.rnnx"


@pytest.fixture(scope="module")
def sound(folder: Path) -> Path:
    made = CliRunner().invoke(main, ["export", f"{folder}/nets.py:sound", "-o", f"{folder}/sound.rnnx", "--steps", "8"])
    assert made.exit_code == 0, made.output
    return folder / "sound.rnnx"


# --- export


def test_export_says_what_it_did(run: Run) -> None:
    result = run("export", "nets.py:net", "-o", "said.rnnx", "--steps", 16)
    assert result.exit_code == 0
    for part in ("rnn.l0.h", "(batch, time, 3)", "onnx.reference", "wrote said.rnnx"):
        assert part in result.stdout
    verdict, *commands = result.stdout.splitlines()[-4:]
    assert re.fullmatch(r"verified: 9 checks over 16 steps, worst \d\.\de-\d\d of \d\.\de-\d\d allowed", verdict)
    assert commands == [
        "report: said.rnnx/report.html",
        "run: rnn-export run said.rnnx x.npy",
        "faster: rnn-export build said.rnnx --target c",
    ]
    stages = [line.removeprefix("export: ") for line in result.stderr.splitlines()]
    lifting = ["lift: memory", "lift: axes", "lift: capture", "lift: streaming"]
    assert stages == ["source", "libraries", *lifting, "graphs", "reference", *STREAMS, "onnx.reference", "write"]


def test_the_next_commands_are_those_that_the_bundle_can_do(run: Run) -> None:
    whole = run("export", "nets.py:bidirectional", "-o", "whole.rnnx", "--steps", 16, "--sequence-only", "--no-report")
    assert whole.exit_code == 0, whole.output
    assert re.match(r"verified: \d+ checks over 16 frames, ", whole.stdout.splitlines()[-2])
    assert whole.stdout.splitlines()[-1] == "run: rnn-export run whole.rnnx x.npy"
    c = run("export", "nets.py:sound", "-o", "its c.rnnx", "--steps", 8, "--target", "c")
    assert c.exit_code == 0, c.output
    assert c.stdout.splitlines()[-3:] == [
        "report: 'its c.rnnx/report.html'",
        "run: rnn-export run 'its c.rnnx' x.wav",
        "time: rnn-export bench 'its c.rnnx'",
    ]


def test_a_verbose_command_times_its_stages_and_a_quiet_one_says_nothing(run: Run, bundle: Path) -> None:
    verbose = run("verify", bundle, "-v")
    assert re.search(r"^verify: step\nverify: step: \d+\.\d s\nverify: sequence\n", verbose.stderr)
    assert re.match(r"verified: 7 checks over 32 steps, worst ", verbose.stdout.splitlines()[-1])
    quiet = run("verify", bundle, "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")
    lifted = run("inspect", "nets.py:net", "-q")
    assert "rnn.l0.h" in lifted.stdout
    assert lifted.stderr == ""
    assert json.loads(run("verify", bundle, "-q", "--json").stdout)["ok"] is True
    missing = run("verify", "gone.rnnx", "-q")
    assert missing.exit_code == 1
    assert "error: gone.rnnx does not exist" in missing.stderr
    both = run("verify", bundle, "-v", "-q")
    assert both.exit_code == 2
    assert "--verbose and --quiet are opposites: leave one of them out." in both.stderr


def test_inspect_takes_as_many_frames_as_the_strides_need(run: Run) -> None:
    told = run("inspect", "nets.py:strided", "--chunk", "auto")
    assert told.exit_code == 0, told.output
    assert "note: chunk 4 frames: the stride of conv1d in 0\n" in told.stdout
    assert told.stderr.splitlines() == [
        f"inspect: {s}" for s in ("source", "memory", "axes", *["capture", "streaming"] * 2)
    ]
    refused = run("inspect", "nets.py:strided", "--chunk", 1)
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1] == (
        "error: chunk=1: the model takes 4 frames at once (its strides), so a step must have a multiple of 4. Say "
        "chunk=4 (--chunk 4)."
    )


@pytest.mark.parametrize("chunk", ["0", "-1", "x", "1.5", "none"])
def test_a_chunk_that_is_no_number_of_frames_is_wrong_usage(run: Run, chunk: str) -> None:
    refused = run("export", "nets.py:net", "-o", "never.rnnx", "--chunk", chunk)
    assert refused.exit_code == 2
    assert "give an int of at least 1 (--chunk N), or" in " ".join(refused.stderr.split())


def test_export_json_is_alone_on_stdout(run: Run) -> None:
    result = run("export", "nets.py:talks", "-o", "json.rnnx", "--steps", 16, "--json")
    data = json.loads(result.stdout)
    assert "stepping" in result.stderr
    assert data["bundle"] == "json.rnnx"
    assert data["parity"]["ok"] is True
    assert [s["name"] for s in data["spec"]["states"]] == ["h"]


def test_options_reach_the_bundle(run: Run) -> None:
    result = run(
        *("export", "nets.py:net", "-o", "options.rnnx", "--chunk", 2, "--opset", 17, "--steps", 16),
        *("--time-axis", "x=1", "--target", "onnx", "--precision", "fp32", "--json"),
    )
    assert result.exit_code == 0, result.output
    bundle = open_bundle("options.rnnx")
    assert bundle.spec.chunk == 2
    assert bundle.targets[0].opset == 17


def test_weights_are_loaded(run: Run, folder: Path) -> None:
    weights = torch.nn.Module()
    weights.rnn, weights.head = torch.nn.GRU(3, 5, batch_first=True), torch.nn.Linear(5, 2)
    save_weights(weights, folder / "w.safetensors")
    run("export", "nets.py:net", "-o", "w0.rnnx", "--steps", 8)
    result = run("export", "nets.py:net", "-o", "w1.rnnx", "--steps", 8, "--weights", "w.safetensors")
    assert result.exit_code == 0, result.output
    assert open_bundle("w0.rnnx").spec.digest != open_bundle("w1.rnnx").spec.digest


def test_weights_that_do_not_fit_are_named(run: Run, folder: Path) -> None:
    save_weights(torch.nn.Linear(5, 3), folder / "other.safetensors")
    result = run("export", "nets.py:net", "-o", "no.rnnx", "--weights", "other.safetensors")
    assert result.exit_code == 1
    assert "missing: head.bias, head.weight, rnn.bias_hh_l0" in result.stderr
    assert "unexpected: bias, weight" in result.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nets", "'nets' is no source: give file.py:factory or package.module:factory"),
        ("nets.py", "nets.py has no function 'factory'; it has "),
        (
            "net.PT",
            "net.PT holds weights, and not the code of a model: write a function that makes the model, and give",
        ),
        ("net.safetensors", "give it with them, file.py:factory --weights net.safetensors."),
        ("gone.py:net", "gone.py does not exist"),
        ("nets.py:gone", "nets.py has no function 'gone'; it has Net, Last, Explicit"),
        ("no.such.package:net", "importing no.such.package raised ModuleNotFoundError"),
        ("nets.py:raises", "nets.py:raises raised ZeroDivisionError: division by zero"),
        ("nets.py:leaves", "nets.py:leaves raised SystemExit: 3"),
        ("nets.py:nothing", "returned a NoneType, but must return (model, example_inputs)"),
        ("nets.py:typo", "gives the options ['time_axes'], but export knows"),
        ("nets.py:dropout", "train mode"),
        ("nets.py:bidirectional", "bidirectional"),
        ("nets.py:explicit", "looks like a state"),
    ],
)
def test_a_bad_source_is_one_clear_error(run: Run, source: str, message: str) -> None:
    result = run("export", source, "-o", "never.rnnx")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not Path("never.rnnx").exists()


def test_an_existing_bundle_needs_force(run: Run) -> None:
    assert run("export", "nets.py:net", "-o", "twice.rnnx", "--steps", 8).exit_code == 0
    again = run("export", "nets.py:net", "-o", "twice.rnnx", "--steps", 8)
    assert again.exit_code == 1
    assert "--force" in again.stderr
    assert run("export", "nets.py:net", "-o", "twice.rnnx", "--steps", 8, "--force").exit_code == 0


def test_parity_failure_exits_with_3_and_writes_nothing(run: Run) -> None:
    result = run("export", "nets.py:net", "-o", "off.rnnx", "--steps", 16, "--rtol", 0, "--atol", 0, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"] == "ParityError"
    assert "Nothing was written" in result.stderr
    assert not Path("off.rnnx").exists()


@pytest.mark.parametrize(
    "arguments",
    [("export", "nets.py:net"), ("export", "nets.py:net", "-o", "x", "--state", "h"), ("verify",), ("nonsense",)],
)
def test_wrong_usage_exits_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


# --- verify and inspect


def test_verify(run: Run, bundle: Path) -> None:
    result = run("verify", bundle)
    assert result.exit_code == 0
    assert "Parity on onnxruntime (cpu), 32 steps x 2 rows" in result.stdout
    assert json.loads(run("verify", bundle, "--json").stdout)["ok"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "abacus"), "there is no backend 'abacus'"),
        (("--precision", "fp16"), "not in fp16"),
        (("--device", "cuda"), "CUDAExecutionProvider"),
    ],
)
def test_a_backend_that_cannot_run_says_why(run: Run, bundle: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run("verify", bundle, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_missing_or_damaged_bundle_is_named(run: Run, bundle: Path, tmp_path: Path) -> None:
    assert "gone.rnnx does not exist" in run("verify", "gone.rnnx").stderr
    copy = tmp_path / "damaged.rnnx"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes()[:-1] if file.name == "step.onnx" else file.read_bytes())
    result = run("run", copy, "x.npy")
    assert result.exit_code == 1
    assert "step.onnx" in result.stderr


def test_inspect_a_bundle_and_a_source_agree(run: Run, bundle: Path) -> None:
    shown = run("inspect", bundle)
    assert shown.exit_code == 0
    for part in ("rnn.l0.h", "step.onnx", "sequence.onnx", "made by rnn-export", "Parity on"):
        assert part in shown.stdout
    of_bundle = json.loads(run("inspect", bundle, "--json").stdout)
    of_source = json.loads(run("inspect", "nets.py:net", "--json").stdout)
    assert of_bundle["spec"] == of_source["spec"]
    assert of_source["parameters"] == sum((3 * 5 * 3, 3 * 5 * 5, 2 * 3 * 5, 2 * 5, 2))
    assert "162 parameters" in run("inspect", "nets.py:net").stdout


# --- run


def recording(frames: int = 20) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((frames, 3)).astype(np.float32)


def test_an_answer_at_the_last_frame_is_one_line(run: Run, folder: Path) -> None:
    assert run("export", "nets.py:last", "-o", "last.rnnx", "--steps", 16, "--no-report").exit_code == 0
    (folder / "three.csv").write_text("1,2,3\n" * 3)
    for output in ((), ("-o", "y.csv")):
        result = run("run", "last.rnnx", "three.csv", *output)
        text = (folder / "y.csv").read_text() if output else result.stdout
        assert [line.count(",") for line in text.splitlines()] == [1]
        assert "3 frames in 0." in result.stderr
        assert " s on onnxruntime (fp32), " in result.stderr
    np.save(folder / "two.npy", np.ones((2, 3, 3), np.float32))
    assert [line.count(",") for line in run("run", "last.rnnx", "two.npy").stdout.splitlines()] == [1, 1]


def test_run_gives_the_same_through_every_door(run: Run, bundle: Path) -> None:
    x = recording()
    np.save("x.npy", x)
    np.savez("x.npz", x=x)
    np.savetxt("x.csv", x, delimiter=",", header="a,b,c", comments="")
    printed = np.loadtxt(run("run", bundle, "x.npy").stdout.splitlines(), delimiter=",")
    assert printed.shape == (20, 2)
    for source in ("x.npz", "x.csv"):
        again = np.loadtxt(run("run", bundle, source).stdout.splitlines(), delimiter=",")
        np.testing.assert_allclose(again, printed, atol=1e-6)
    for name in ("y.npy", "y.npz", "y.csv"):
        result = run("run", bundle, "x.npy", "-o", name)
        assert result.exit_code == 0, result.output
        assert "20 frames in" in result.stderr
    np.testing.assert_allclose(np.load("y.npy"), printed, atol=1e-6)
    np.testing.assert_allclose(np.load("y.npz")["output"], printed, atol=1e-6)
    np.testing.assert_allclose(np.loadtxt("y.csv", delimiter=","), printed, atol=1e-6)
    as_json = json.loads(run("run", bundle, "x.npy", "--json").stdout)
    np.testing.assert_allclose(as_json["outputs"]["output"], printed, atol=1e-6)
    raw = run("run", bundle, "-", input=x.tobytes())
    np.testing.assert_allclose(np.loadtxt(raw.stdout.splitlines(), delimiter=","), printed, atol=1e-6)


def test_raw_frames_are_answered_as_they_come(folder: Path, bundle: Path) -> None:
    command = [Path(sys.executable).with_name("rnn-export"), "run", bundle, "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for frame in recording(3):
            process.stdin.write(frame.tobytes())
            process.stdin.flush()
            assert len(process.stdout.readline().split(b",")) == 2
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_torn_last_frame_is_refused(run: Run, bundle: Path) -> None:
    result = run("run", bundle, "-", input=recording(2).tobytes()[:-1])
    assert result.exit_code == 1
    assert "ends inside a frame: 11 of 12 bytes after 1 frames" in result.stderr


def write_wav(path: str, samples: np.ndarray, rate: int = 16000, channels: int = 1) -> None:
    with wave.open(path, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def test_wav_is_scaled_and_its_last_frame_padded(run: Run, sound: Path) -> None:
    samples = (1000 * np.sin(np.arange(400))).astype(np.int16)
    write_wav("s.wav", samples)
    np.save("s.npy", np.pad(samples / 32768, (0, 80)).astype(np.float32).reshape(3, 160))
    heard, expected = run("run", sound, "s.wav"), run("run", sound, "s.npy")
    assert heard.exit_code == 0, heard.output
    assert heard.stdout == expected.stdout
    assert "x real time" in heard.stderr


@pytest.mark.parametrize(
    ("rate", "channels", "message"),
    [(8000, 1, "has 8000 Hz, but the model was made for 16000 Hz"), (16000, 2, "2 channels")],
)
def test_another_kind_of_wav_is_refused(run: Run, sound: Path, rate: int, channels: int, message: str) -> None:
    write_wav("other.wav", np.zeros(320), rate, channels)
    result = run("run", sound, "other.wav")
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("gone.npy", "y.npy", "gone.npy does not exist"),
        ("nets.py", "y.npy", "is of no known kind"),
        ("broken.npy", "y.npy", "broken.npy cannot be read as .npy"),
        ("wide.npy", "y.npy", "a frame has (3,)"),
        ("nan.npy", "y.npy", "holds NaN or Inf"),
        ("x.npy", "y.txt", "y.txt is of no known kind"),
        ("x.npy", "no/such/y.npy", "does not exist"),
    ],
)
def test_bad_input_and_output_of_run(run: Run, bundle: Path, source: str, output: str, message: str) -> None:
    np.save("x.npy", recording())
    np.save("wide.npy", np.zeros((4, 7), np.float32))
    np.save("nan.npy", np.full((4, 3), np.nan, np.float32))
    Path("broken.npy").write_bytes(b"not numpy")
    Path("y.npy").unlink(missing_ok=True)
    result = run("run", bundle, source, "-o", output)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not Path("y.npy").exists()


def write_table(path: str, rows: int = 6) -> None:
    lines = [f"2026-01-01 0{at}:00,{at},{at / 2},{-at}" for at in range(rows)]
    Path(path).write_text("\n".join(["time,b,c,a", *lines]))


def test_columns_of_a_csv_are_picked_by_name_and_number(run: Run, bundle: Path) -> None:
    write_table("t.csv")
    at = np.arange(6, dtype=np.float32)
    np.save("t.npy", np.stack([-at, at, at / 2], 1))
    expected = run("run", bundle, "t.npy")
    assert expected.exit_code == 0, expected.output
    assert run("run", bundle, "t.csv", "--columns", "a,b,c").stdout == expected.stdout
    assert run("run", bundle, "t.csv", "--columns", " a, 2 ,3").stdout == expected.stdout
    refused = run("run", bundle, "t.csv")
    assert "t.csv cannot be read as .csv: line 2, column 1 ('time') holds '2026-01-01 00:00'" in refused.stderr
    assert "leave the column out, --columns b,c,a (in Python Csv('t.csv', ['b', 'c', 'a']))" in refused.stderr


@pytest.mark.parametrize("option", ["--data", "--calibrate"])
def test_columns_of_a_recording_to_export_with(run: Run, option: str) -> None:
    write_table("t.csv")
    arguments = ("export", "nets.py:net", "-o", "picked.rnnx", "--target", "c", "--precision", "int8", option, "t.csv")
    result = run(*arguments, "--columns", "a,speed")
    assert "t.csv has no column 'speed': it has time, b, c, a" in result.stderr
    assert not Path("picked.rnnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "BUNDLE", "x.npy", "--columns", "a"), "--columns picks columns of a .csv, and none is given"),
        (("loadtest", "BUNDLE", "--rate", "100", "--columns", "a"), "--columns picks columns of a .csv, and none is"),
        (
            ("build", "BUNDLE", "--target", "c", "--columns", "a"),
            "--columns picks columns of a .csv, and none is given",
        ),
        (("run", "BUNDLE", "x.csv", "--columns", "a,,b"), "'a,,b': give names of columns, or numbers from 1 on"),
    ],
)
def test_columns_that_are_of_no_csv(run: Run, bundle: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*(bundle if word == "BUNDLE" else word for word in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


# --- the face of it


def test_a_terminal_sees_a_bar_on_stderr(folder: Path, bundle: Path) -> None:
    parent, child = pty.openpty()
    command = [Path(sys.executable).with_name("rnn-export"), "verify", bundle]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stderr=child, stdout=subprocess.PIPE, env=environment) as process:
        os.close(child)
        seen = b""
        while b"verify" not in seen:
            seen += os.read(parent, 4096)
        assert process.stdout is not None
        assert b"verify:" not in process.stdout.read()
        assert process.wait(30) == 0
    os.close(parent)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name: str) -> None:
    text = CliRunner().invoke(main, [name, "--help"]).output
    for option in ("--json", "-v, --verbose", "-q, --quiet"):
        assert option in text
    assert f"\n  {name} " in CliRunner().invoke(main, ["--help"]).output


def test_a_command_that_there_is_not() -> None:
    result = CliRunner().invoke(main, ["exprot"])
    assert result.exit_code == 2
    assert "No such command 'exprot': did you mean export?" in result.stderr
    assert "did you mean" not in CliRunner().invoke(main, ["abacus"]).stderr


def test_a_file_alone_is_its_factory(run: Run, folder: Path) -> None:
    (folder / "single.py").write_text(f"{FACTORY}\n\ndef factory():\n    return net()\n")
    result = run("inspect", "single.py", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["spec"] == json.loads(run("inspect", "nets.py:net", "--json").stdout)["spec"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom rnn_export.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(', '.join(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert done.returncode == 0


def test_what_a_factory_prints_goes_to_stderr(run: Run) -> None:
    result = run("inspect", "nets.py:talks", "--json")
    assert json.loads(result.stdout)["spec"]
    assert {"loading", "stepping"} <= set(result.stderr.splitlines())


def test_export_without_torch_says_what_to_install(folder: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom rnn_export.cli.main import main\n"
        f"main(['inspect', {str(folder / 'nets.py:net')!r}, '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error = json.loads(done.stdout)
    assert (error["error"], error["id"]) == ("ModuleNotFoundError", "package-not-installed")
    assert "this needs torch, which is not here: pip install" in error["message"]
    assert "Traceback" not in done.stderr


def test_a_parity_failure_with_nan_is_shown(run: Run, bundle: Path, tmp_path: Path) -> None:
    from rnn_export.bundle import write_bundle

    opened = open_bundle(bundle)
    model = onnx.load_from_string(opened.read("step.onnx"))
    bias = next(i for i in model.graph.initializer if i.name.endswith("head.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(2, np.nan, np.float32), bias.name))
    files = {name: opened.read(name) for name in opened.files} | {"step.onnx": model.SerializeToString()}
    broken = tmp_path / "nan.rnnx"
    write_bundle(broken, spec=opened.spec, producer=opened.producer, files=files, targets=opened.targets)
    result = run("verify", broken)
    assert result.exit_code == 3
    assert "inf" in result.stdout
    assert "do not use it on this backend" in result.stderr


@pytest.mark.parametrize("first", ["torch", "torch._dynamo"])
def test_a_folder_named_as_a_library_of_torch_s_is_not_that_library(folder: Path, first: str) -> None:
    """torch reads `triton.language` wherever `import triton` succeeds, as here: some convert in a child process."""
    (folder / "triton").mkdir(exist_ok=True)
    code = (
        f"import sys, {first}\nsys.path.insert(0, {str(folder)!r})\n"
        "from rnn_export.platform.isolated_process import run_isolated\n"
        "from rnn_export.lazy import load_module\nload_module('torch._dynamo')\n"
        "try: run_isolated('torch._dynamo', 'no_function', {}, {})\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "has no attribute 'no_function'" in done.stdout, done.stderr
