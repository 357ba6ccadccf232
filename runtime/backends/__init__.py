"""One folder a backend; `api` is their interface, and `rnn_export.runtime.registry` finds them by name."""
