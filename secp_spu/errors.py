"""Errors that a user can cause or meet, with what each means for the exit status of a command.

A message names an argument of the Python API in backquotes, such as `resume`; the command line shows its option instead
(`secp_spu.cli.terminal.with_options`).
"""


class ConfigError(ValueError):
    """Bad input: one sentence that names the key or file, what came, what is allowed and the fix. Exit status 2."""


class RuntimeFailure(RuntimeError):
    """A party failed, so the runtime has ended; the message names the party. Exit status 1."""
