"""Fine-tuning of sentiment models: data sets, splits, methods, training, export. Needs the extra `train`."""

from __future__ import annotations

import logging
import warnings


def silence_warnings() -> None:
    """Show errors of the training libraries alone, and none of their progress bars. Call it before
    importing them.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|peft|transformers|bitsandbytes)\b")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
