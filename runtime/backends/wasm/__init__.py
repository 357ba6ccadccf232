"""The step in C as WebAssembly, run here by wasmtime."""
