"""Compares losses: trains each with several seeds, and reports which differences are significant.

- `plan` describes what is trained; `plan_reader` and `variants` read it from a file and from flags;
- `data` holds images out; `folders` reads and writes the files of a run;
- `runner` trains the runs, each as a `job` in `processes` of its own; `evaluation` is one of them;
- `results` is the table of all runs, and `statistics` compares its variants;
- `report` puts `sentences`, `tables` and `pictures` into a document;
- `command` calls all of these.
"""
