"""The step in C as WebAssembly: compiled, and packed for npm and browsers."""
