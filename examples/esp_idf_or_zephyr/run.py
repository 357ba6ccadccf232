"""Export a net, lay it out for ESP-IDF and for Zephyr, and compile both applications with it for two machines."""

import shutil
import subprocess
from pathlib import Path

import torch
from torch import nn

from rnn_export import export

HERE = Path(__file__).parent
MACHINES = {
    "Cortex-M4": ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
    "ESP32-C3": ["riscv64-unknown-elf-gcc", "-march=rv32imc_zicsr", "-mabi=ilp32", "--specs=picolibc.specs"],
}
# What the applications call of their frameworks, which are not here.
STAND_INS = {
    "freertos/FreeRTOS.h": "#define pdMS_TO_TICKS(ms) (ms)\n",
    "freertos/task.h": "void vTaskDelay(unsigned ticks);\n",
    "zephyr/kernel.h": "void printk(const char *text, ...);\nvoid k_msleep(int ms);\n",
}


class Gesture(nn.Module):
    """motion (B, T, 6) -> scores (B, T, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, motion: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(self.rnn(motion)[0]), -1)


def laid_out(out: Path) -> Path:
    """The folder of C, as a module of Zephyr beside its application, and as a component in that of ESP-IDF."""
    torch.manual_seed(0)
    names = {"input_names": ["motion"], "output_names": ["scores"]}
    bundle = export(
        Gesture().eval(), (torch.randn(1, 20, 6),), out / "gesture.rnnx", targets=["c"], force=True, **names
    )
    sources = bundle.path / "targets/c-fp32"
    for framework in ("esp_idf", "zephyr"):
        shutil.copytree(HERE / framework, out / framework, dirs_exist_ok=True)
    for place in (out / "gesture", out / "esp_idf/components/gesture"):
        shutil.copytree(sources, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("build"))
    return out / "gesture"


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    module = laid_out(out)
    for name, text in STAND_INS.items():
        (out / "stand_ins" / name).parent.mkdir(parents=True, exist_ok=True)
        (out / "stand_ins" / name).write_text(text)
    strict = ["-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", f"-I{module}", f"-I{out / 'stand_ins'}"]
    parts = {"net": module / "gesture.c", "ESP-IDF": out / "esp_idf/main/main.c", "Zephyr": out / "zephyr/src/main.c"}
    for machine, compiler in MACHINES.items():
        for name, source in parts.items():
            made = out / f"{machine}-{name}.o"
            subprocess.run([*compiler, *strict, "-c", str(source), "-o", str(made)], check=True)
        size = subprocess.run(
            [compiler[0].replace("gcc", "size"), str(out / f"{machine}-net.o")],
            capture_output=True,
            text=True,
            check=True,
        )
        text, data, bss = (int(n) for n in size.stdout.splitlines()[1].split()[:3])
        print(f"{machine}: both applications compiled; the net takes {text + data:,} bytes of flash, {bss} of RAM")


if __name__ == "__main__":
    main()
