"""The errors that mean "what you gave us cannot be used"."""


class InputError(ValueError):
    """Bad input: the message names the thing, the rule it breaks and what to do.

    The command line prints it as one line; every other exception is a defect of
    ours (or of the machine) and keeps its traceback.
    """


class DivergedError(InputError):
    """Training met a loss that is not finite."""
