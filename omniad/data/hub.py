"""Files of a gated data set on the Hugging Face hub, with the user's own token, which is never shown or stored here."""

from __future__ import annotations

from pathlib import Path

from omniad.errors import UserError
from omniad.files import sha256_file

INSTALL = "pip install huggingface_hub"


def missing_for_hub() -> str:
    """What is missing before anything can be fetched from the hub, and what to do; "" if nothing is."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return f"the package huggingface_hub is missing: {INSTALL}"
    return "" if get_token() else "no token: log in with `hf auth login`, or set HF_TOKEN"


def fetch_from_hub(repository: str, name: str, path: Path) -> tuple[str, str]:
    """Fetch one file of a data set's repository; huggingface_hub resumes, retries and shows the progress.

    Args:
        repository: owner/name.
        name: the file's path in it.
        path: where the file belongs: a folder that ends in the folders of `name`.

    Returns:
        Its address and sha256.

    Raises:
        UserError: package or token is missing, the conditions are not accepted, or the hub can't be reached.
    """
    if problem := missing_for_hub():
        raise UserError(f"{repository}: {problem}")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page = f"https://huggingface.co/datasets/{repository}"
    folder = path.parents[len(Path(name).parts) - 1]
    url = hf_hub_url(repository, name, repo_type="dataset")
    try:
        published = get_hf_file_metadata(url, token=True).etag or ""
        hf_hub_download(repository, name, repo_type="dataset", local_dir=folder, token=True)
    except (GatedRepoError, RepositoryNotFoundError):
        raise UserError(
            f"{repository}: no access yet: accept its conditions at {page}, logged in as the token's owner"
        ) from None
    except RemoteEntryNotFoundError:
        raise UserError(f"{repository}: has no file {name}; look at {page} and put the file at {path}") from None
    except (HTTPError, OSError) as error:  # the first line only: more may quote the request
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{repository}: {name} could not be fetched: {reason}; try again, or put the file at {path}"
        ) from None
    sha256 = sha256_file(path)
    # The hub names a large file by its sha256, a small one by a shorter git hash.
    if len(published) == 64 and published != sha256:
        path.unlink()
        raise UserError(f"{repository}: {name} has sha256 {sha256} instead of {published}; try again")
    return url, sha256
