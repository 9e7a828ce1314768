"""The errors that end a job in one line."""


class UserError(Exception):
    """Bad input: one clear line that names the file, option or column and what would be right.

    Every job turns it into that line on stderr and exit code 2, without a traceback.
    """


class JobError(Exception):
    """What the input is not to blame for: a worker out of memory, a server that went away. One line says what and why.

    Every job turns it into that line on stderr and exit code 1, without a traceback.
    """
