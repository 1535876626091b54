"""Upload an exported folder to the hub, so that nobody can take half of it for the whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rwtrain.errors import RWTrainError
from rwtrain.export.completeness import LIST_FILE, verify

LAST = ("config.json", LIST_FILE)  # without config.json transformers loads nothing


def push_folder(folder: Path, repo: str, *, private: bool = True, endpoint: str | None = None) -> str:
    """Upload a whole export and return the address of its page.

    An earlier model's `config.json` is removed from the repository first, and this one's is uploaded last, after every other file: an
    upload that is interrupted leaves a repository that loads nowhere. Run again, it continues (files that are there are not sent again).

    Args:
        repo: "owner/name"; created if it does not exist.
        private: of a new repository.
        endpoint: address of the hub; default: that of huggingface_hub (HF_ENDPOINT).

    Raises:
        DataError: the folder is no whole export.
        RWTrainError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    listed = verify(folder)
    api: Any = HfApi(endpoint=endpoint, library_name="rwtrain")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if api.file_exists(repo, "config.json"):
            api.delete_file("config.json", repo, commit_message="Model is being replaced")
        kept = [*listed["files"], LIST_FILE]
        print(f"uploading {len(kept)} files of {folder} to {repo}", file=sys.stderr)
        api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=kept, ignore_patterns=list(LAST), commit_message="Weights, code, tokenizer")
        verify(folder)  # a folder that was changed meanwhile is not made loadable
        done = api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=list(LAST), commit_message="Configuration: the model is whole")
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise RWTrainError(
            f"{repo}: the upload did not end ({' '.join(str(error).split())[:300]}). Check the name, the network and `hf auth login`; run it again to continue."
        ) from error
    return str(done.commit_url).split("/commit/")[0]
