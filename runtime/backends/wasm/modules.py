"""Files of the target `wasm` that a host loads: one of the two modules, and the weights where they are apart."""

SIMD, SCALAR, WEIGHTS = "model.wasm", "model-scalar.wasm", "weights.bin"
