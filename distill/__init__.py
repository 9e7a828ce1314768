"""Everything that makes a model.

In: a recordings manifest (`tables.RECORDINGS`), a frozen teacher, a ClapModel checkpoint.
Out: a student, an audio encoder whose unit vectors lie in the teacher's space.

Read in this order: `errors`, `storage` and `tables` (what everything rests on); `registry` and `checkpoints` (models by
name); `audio`, `padding` and `mel` (sound to features); `prompts` and `teacher` (species to texts to vectors);
`text_bank`; `draws`, `htsat` and `student`; `precision`, `packed` and `packed_int8` (the tower for annotating, with
`kernels` in C); `objectives`; `augment`; `dataset`; `side_by_side`, `step`, `trainer`, `launch` and `pictures`;
`metrics` and `baselines`; `sources` (data sets to tables). Nothing here imports `inference` or `jobs`.
"""
