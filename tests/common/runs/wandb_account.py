"""What tests of W&B share: a key, the names in the environment that an account has, and what we logged."""

from __future__ import annotations

import pytest

KEY = "k" * 40
ACCOUNT = (
    "WANDB_MODE",
    "WANDB_DISABLED",
    "WANDB_API_KEY",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_BASE_URL",
    "WANDB_CONFIG_DIR",
    "NETRC",
)


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this program logged; W&B logs to Python's own loggers too."""
    return [record.getMessage() for record in caplog.records if record.name == "retouch"]
