"""Training libraries that talk to a person who asked Tapewire: their bars and notices off, their warnings kept in the log."""

from __future__ import annotations

import logging
import warnings


def silence_warnings() -> None:
    """For command lines: errors alone are shown, and Tapewire draws the only progress bar."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|peft|transformers|bitsandbytes)\b")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
