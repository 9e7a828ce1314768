"""Encoders of sound, of pictures and of texts.

Read in this order: `mel` (waves to features), `htsat` (CLAP's audio tower), `student` (what `songsight distill` makes),
`prompts` and `teacher` (texts and photographs to vectors), `clap` (an untouched ClapModel), `precision` and `openvino`
(what runs the tower), `encoder` (whatever `--model` names), `recordings` (`songsight.load`), `registered` (what MLflow
serves).
"""
