"""One file or folder a target: what writes its files and what they are verified on."""
