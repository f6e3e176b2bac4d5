"""A folder of weights to the Hugging Face Hub, by the hub's own client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared_spec.download import REPOSITORY, first_line, offline
from shared_spec.errors import WeightsError, framework_missing


def require_writable(name: str) -> None:
    """Raise a `WeightsError` if a repository cannot be written to, as far as can be told here."""
    if not isinstance(name, str) or not REPOSITORY.fullmatch(name):
        raise WeightsError(f"{name}: expected 'owner/name' of a repository on the hub")
    if variable := offline():
        raise WeightsError(f"{name}: cannot be written to, and {variable} is set")


def upload(
    folder: Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Weights, configuration and model card",
    replaced: Sequence[str] = (),
) -> str:
    """Put a folder into a repository, which is created if it does not exist.

    Args:
        folder: what to put there; other files that the repository has stay.
        name: `owner/name`.
        private: whether a new repository is.
        revision: the branch; None for the main one.
        token: None takes the one that the client knows (`hf auth login`, `HF_TOKEN`).
        message: of the commit.
        replaced: names of files that belong together: those that the folder lacks are removed.

    Returns:
        The address of the commit.

    Raises:
        FrameworkError: if `huggingface_hub` is not installed.
        WeightsError: if the name is malformed, or the hub refuses or cannot be reached.
    """
    require_writable(name)
    try:
        import huggingface_hub
    except ImportError:
        raise framework_missing("the Hugging Face Hub", "huggingface_hub", "hub") from None
    client: Any = huggingface_hub.HfApi(token=token)
    # The client raises errors of its own, of its HTTP library's and of the system's.
    try:
        client.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            client.create_branch(name, branch=revision, exist_ok=True)
        done = client.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns=list(replaced) or None,
        )
    except Exception as error:
        raise WeightsError(f"{name}: cannot be written to ({first_line(error)})") from None
    return str(done.commit_url)
