"""The C of a step made into two WebAssembly modules, with 128-bit vectors and without, that import nothing."""

import re
import subprocess
from collections.abc import Mapping

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BuildError, ToolUnavailable
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.wasm.modules import SCALAR, SIMD
from rnn_export.runtime.build.c_compiler import FLAGS, Compiler, lay_out, work_folder, zig
from rnn_export.runtime.build.glue import FILE, glue

# To the compiler proper: said to zig, it would build its C library once more for them.
VECTORS = ("-Xclang", "-target-feature", "-Xclang", "+simd128")
MODULES: Mapping[str, tuple[str, ...]] = {SIMD: VECTORS, SCALAR: ()}
# Bytes of the stack beside the tensors of a step.
FRAMES = 2**16
LINK = ("-mexec-model=reactor", "-fvisibility=hidden", "-s", "-Wl,--export-dynamic,--export=__heap_base")


def find_zig() -> Compiler:
    """The compiler to WebAssembly; raises ToolUnavailable where it is not here."""
    command = zig()
    if not command:
        raise ToolUnavailable("no compiler to WebAssembly is here, zig", pip_install("wasm"), id="zig-missing")
    try:
        done = subprocess.run([*command, "version"], capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolUnavailable(f"zig does not run ({error})", pip_install("wasm"), id="zig-not-running") from error
    return Compiler((*command, "cc", "-target", "wasm32-wasi"), f"zig cc {done.stdout.strip()}")


def compile_wasm(sources: Mapping[str, bytes], name: str, spec: StreamSpec) -> dict[str, bytes]:
    """Compile the step `name` of `sources`, by bare file name; gives the modules by file name.

    Raises BuildError with the compiler's first error, and ToolUnavailable where there is no zig.
    """
    compiler, header = find_zig(), sources[f"{name}.h"].decode()
    found = re.search(rf"^#define {name.upper()}_STACK_BYTES (\d+)$", header, re.MULTILINE)
    if found is None:
        raise BuildError(
            f"{name}.h does not say what a step takes of the stack: export the bundle again.", id="wasm-stack-unsaid"
        )
    stack = -(-(int(found[1]) + FRAMES) // 4096) * 4096
    with work_folder() as folder:
        lay_out(sources, folder / "step")
        (folder / FILE).write_text(glue(name, spec), encoding="utf-8")
        flags = [*FLAGS, *LINK, f"-Wl,-z,stack-size={stack}", "-Istep", f"step/{name}.c", FILE, "-lm"]
        for module, vectors in MODULES.items():
            compiler.compile([*vectors, *flags, "-o", module], folder)
        return {module: (folder / module).read_bytes() for module in MODULES}
