"""One folder a backend; `api` is what each of them is, and `rnn_export.runtime.registry` finds them by name."""
