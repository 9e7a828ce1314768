"""The steps of `songsight distill`."""
