"""torch and transformers: imported late, as a second run needs neither, and then in one go."""

import gc
import sys


def load_libraries() -> None:
    """Import torch and what all of transformers' models need, and keep it from being collected.

    They leave half a million objects, which live as long as the process. Python's garbage collector
    looks at them again and again: it takes a quarter of the time of their import, 0.2 s for every
    full collection after that, of which pytest asks for five when it ends, and 0.9 s at the end of
    the process.
    """
    if "transformers.modeling_utils" in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        import transformers.modeling_utils  # noqa: F401
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
