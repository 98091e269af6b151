"""One file, one compressor. The file's name is its name; a file that starts with `_` is none."""
