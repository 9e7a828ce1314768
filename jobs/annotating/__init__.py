"""The steps of `songsight annotate`."""
