"""The `rnn-export` command: one file a command, and what they share. Nothing here is imported by the library."""
