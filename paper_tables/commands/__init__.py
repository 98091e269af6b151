"""The commands `harmonica table` and `harmonica figure`."""
