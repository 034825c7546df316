"""Asking tensorflow-datasets for a set: where there is no network, one error and no warnings."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from monojax.data.locate import MissingDataError

_LOUD = ("urllib3", "urllib3.connectionpool", "absl", "tensorflow_datasets")


@contextmanager
def one_error(name: str) -> Iterator[None]:
    """Silences warnings of retries inside, and says once what failed in the end.

    Args:
      name: of the set, for the message.

    Raises:
      MissingDataError: instead of an error of the network or of a missing set.
    """
    loggers = [logging.getLogger(logger) for logger in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    except OSError as error:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise MissingDataError(
            f"tensorflow-datasets could not get {name} ({type(error).__name__}: {first}). Prepare "
            "it where there is a network, and give its folder as data_dir."
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
