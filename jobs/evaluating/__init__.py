"""The steps of `songsight evaluate`."""
