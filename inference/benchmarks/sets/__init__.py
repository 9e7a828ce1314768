"""Published benchmarks, one file each, read in the layout that they were published in; `windows` cuts soundscapes."""
