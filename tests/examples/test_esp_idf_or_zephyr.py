"""examples/esp_idf_or_zephyr: both applications compile for two machines, as its README says."""

from pathlib import Path

from ..native.needs import need  # noqa: TID252
from .running import run


def test_both_compile(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "riscv64-unknown-elf-gcc")
    lines = run("esp_idf_or_zephyr", tmp_path)
    assert [line.split(":")[0] for line in lines] == ["Cortex-M4", "ESP32-C3"]
    assert all("both applications compiled" in line for line in lines)
    assert (tmp_path / "esp_idf/components/gesture/CMakeLists.txt").is_file()
    assert (tmp_path / "gesture/zephyr/module.yml").is_file()
