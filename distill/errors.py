"""The one error that is the user's to mend."""


class UserError(Exception):
    """Bad input: one clear line that names the file, option or column and what would be right.

    Every job turns it into that line on stderr and exit code 2, without a traceback.
    """
