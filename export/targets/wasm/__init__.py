"""The target `wasm`: WebAssembly: the C sources that a build compiles."""
