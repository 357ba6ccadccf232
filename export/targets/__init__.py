"""One file or folder a target: its writer, and the engines that verify its files."""
