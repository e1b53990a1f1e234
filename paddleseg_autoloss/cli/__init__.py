"""The commands, one file each: what the file's docstring says is what ``--help`` says.

A command is a module with ``add_flags(parser)`` and ``run(args)``; `main` puts them together.
"""
