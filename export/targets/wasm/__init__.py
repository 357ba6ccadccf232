"""The target `wasm`: the step in C as WebAssembly."""
