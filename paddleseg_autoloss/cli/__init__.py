"""The commands, one file each; the docstring of the file is the text of ``--help``.

A command is a module with ``add_flags(parser)`` and ``run(args)``; `main` combines them.
"""
