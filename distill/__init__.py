"""What makes a model.

In: a recordings manifest (`tables.RECORDINGS`), a frozen teacher, a ClapModel checkpoint.
Out: a student, an audio encoder whose unit vectors lie in the teacher's space.

Read in this order: `data` (which recording comes when, as what clip and with which text), `objectives` (the losses),
`train` (recipe, step, loop, checkpoints, and how Ray runs them). It rests on `songsight` and knows neither `inference`
nor `jobs`. `student`, `audio` and `padding` are left for models that version 0.1 registered.
"""
