"""Old names of options: they raise, and the message gives the new one."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


def renamed(**names: str) -> Callable[[T], T]:
    """Decorates a function or a linen class whose options have new names.

    Args:
      **names: old name to new name, or to a sentence that says what to do.

    Returns:
      A decorator. The result raises TypeError when an old name is given.
    """

    def decorate(target: T) -> T:
        call: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]

        @functools.wraps(call)
        def checked(*args: Any, **options: Any) -> Any:
            for old in names.keys() & options.keys():
                new = names[old]
                text = f"the option {old!r} " + ("is gone: " if " " in new else "is named ")
                text += new if " " in new else f"{new!r} now."
                raise TypeError(f"{target.__name__}: {text}")
            return call(*args, **options)

        if not isinstance(target, type):
            return checked  # type: ignore[return-value]
        target.__init__ = checked  # type: ignore[misc]
        return target

    return decorate
