"""Weights from the Hugging Face Hub, through `huggingface_hub`: its cache, token, offline mode."""

from __future__ import annotations

from pathlib import Path

from shared_spec.errors import FrameworkError, WeightsError


def download(reference: str) -> Path:
    """Fetch `model.safetensors` of `"hf-hub:owner/name"` or `"hf-hub:owner/name@revision"`.

    Raises:
        FrameworkError: if `huggingface_hub` is not installed.
        WeightsError: if the reference is malformed or the file cannot be had.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise FrameworkError(
            "weights from the hub need huggingface_hub, which is not installed; "
            "run: pip install 'resnet-parity[hub]'"
        ) from None
    repository, _, revision = reference.removeprefix("hf-hub:").partition("@")
    if len(repository.split("/")) != 2 or not all(repository.split("/")):
        raise WeightsError(f"{reference}: expected 'hf-hub:owner/name' or 'hf-hub:owner/name@rev'")
    try:
        return Path(hf_hub_download(repository, "model.safetensors", revision=revision or None))
    # The client raises errors of its own, of its HTTP library's and of the system's.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{reference}: cannot be fetched ({reason})") from None
