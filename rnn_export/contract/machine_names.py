"""Advice where a machine's common name is given in place of a target: the target that runs there, and how."""

import re

# A pattern of the whole name, the targets that run there, and what
# `rnn-export build --target c` compiles C for there, or another note. {0} is the name in small letters, {1} as it came.
_MACHINES = (
    (r"(x86-64|aarch64|arm|riscv64)-(linux|windows|macos).*|rv32\w+|xtensa-lx106", ("c",), "--triple {1}"),
    (r"cortex-m\d+\w*", ("c",), "--triple {0}"),
    (r"microcontroller|mcu|stm32\w*|nrf5\w*|arduino|zephyr", ("c",), "--triple cortex-m4 (or the CPU that it has)"),
    (r"(raspberry-?pi-?)?pico|rp2040", ("c",), "--triple cortex-m0plus"),
    (r"(raspberry-?pi-?)?pico-?2|rp2350", ("c",), "--triple cortex-m33"),
    (r"esp32-?(c|h)\d", ("c",), "--triple rv32imc"),
    (r"esp32-?p4", ("c",), "--triple rv32imafc"),
    (r"esp8266", ("c",), "--triple xtensa-lx106"),
    (r"esp32.*|esp", ("c",), "what it writes is C99, which ESP-IDF compiles"),
    (r"cortex-a(5|7|8|9|15|17|32)", ("c",), "--triple arm-linux-gnueabihf --cpu {0}"),
    (r"cortex-a\d+\w*", ("c",), "--triple aarch64-linux-gnu --cpu {0}"),
    (r"raspberry.*|rpi.*|raspi.*|arm64|aarch64", ("c", "onnx"), "--triple aarch64-linux-gnu"),
    (r"arm|armv7.*|armhf|arm32", ("c",), "--triple arm-linux-gnueabihf"),
    (r"risc-?v(64)?", ("c",), "--triple riscv64-linux-gnu"),
    (r"risc-?v32|rv32", ("c",), "--triple rv32imc"),
    (r"linux|x86.*|amd64|desktop|server|cpu", ("c", "onnx"), "--triple x86_64-linux-gnu"),
    (r"win(dows|32|64).*", ("c", "onnx"), "--triple x86_64-windows-gnu"),
    (r"mac(-?os)?|osx|darwin|apple-silicon", ("c", "onnx"), "--triple aarch64-macos"),
    (r"wasi|wasm32-wasi", ("c",), "--triple wasm32-wasi"),
    (r"arm-none-eabi", ("c",), "--triple arm-none-eabi --cpu cortex-m4"),
    (
        r"web|browser|chrome|firefox|safari|node(-?js)?|javascript|js|webassembly|wasm32|wasm64|emscripten",
        ("wasm",),
        "",
    ),
    (r"android|tf-?lite|tensorflow-?lite|tflm", ("litert", "executorch", "c"), ""),
    (r"ios|iphone|ipad|apple", ("coreml", "executorch", "c"), ""),
    (r"phone|mobile", ("litert", "executorch", "coreml"), ""),
    (r"nvidia|cuda|gpu", ("tensorrt", "onnx"), ""),
    (r"intel|npu", ("openvino",), ""),
)


def answer(name: str, asked: str) -> str:
    """Advice on a target if `asked`, `name` in small letters with hyphens, is a machine; else empty."""
    for pattern, targets, then in _MACHINES:
        if re.fullmatch(pattern, asked):
            choice = " or ".join(f"--target {target}" for target in targets)
            built = (
                f", then rnn-export build NAME.rnnx --target c {then}"
                if then.startswith("--")
                else then and f"; {then}"
            )
            return f"that is a machine: {choice} (targets={targets[:1]} in Python){built.format(asked, name)}"
    return ""
