"""Whether the Hub can be reached, asked once.

hub_answers()    # False without a network
"""

import functools

import datasets
from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
from huggingface_hub.utils import get_session, httpx


@functools.cache
def hub_answers() -> bool:
    """Returns whether the Hub can be reached. A process asks once, and never where HF_HUB_OFFLINE is set."""
    try:
        get_session().head(datasets.config.HF_ENDPOINT, timeout=HF_HUB_ETAG_TIMEOUT)
    except (OSError, httpx.RequestError):  # OSError: HF_HUB_OFFLINE is set
        return False
    return True
