"""One file, one method. The file's name is the method's name; a file that starts with `_` is not a method."""
