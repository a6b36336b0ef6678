"""Fetch public data sets by name: `tfds:NAME` and `hf:NAME`.

Each is a folder on this disk afterwards, which another source reads. So its images are checked as
any others.
"""

from tfpipe.core.errors import UserError

TFDS, HUGGING_FACE = "tfds:", "hf:"


def fetch(path: str) -> str:
    """Return the local folder of a data set, fetched if it is not there yet.

    Args:
        path: a source as the user gives it; others than `tfds:NAME` and `hf:NAME` are returned.

    Raises:
        UserError: the library is not installed, or cannot fetch the data set.
    """
    for prefix, get, package in (
        (TFDS, _tensorflow_datasets, "tensorflow-datasets"),
        (HUGGING_FACE, _hugging_face, "huggingface_hub"),
    ):
        if not path.startswith(prefix):
            continue
        try:
            return get(path.removeprefix(prefix))
        except ModuleNotFoundError as error:
            raise UserError(
                f"{path} needs {package}, and {error.name} is not installed: pip install {package}"
            ) from None
        except UserError:
            raise
        except Exception as error:  # the libraries raise errors of many others
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"{path} cannot be fetched ({reason[0]}): check the name and the network, or name"
                " a local copy"
            ) from None
    return path


def _tensorflow_datasets(name: str) -> str:
    import tensorflow_datasets as tfds

    builder = tfds.builder(name)
    builder.download_and_prepare()
    return str(builder.data_path)


def _hugging_face(name: str) -> str:
    import huggingface_hub

    files = huggingface_hub.HfApi().list_repo_files(name, repo_type="dataset")
    has_parquet = any(file.endswith(".parquet") for file in files)
    return huggingface_hub.snapshot_download(
        name,
        repo_type="dataset",
        allow_patterns="*.parquet",
        # Where the hub keeps its own conversion of other formats.
        revision=None if has_parquet else "refs/convert/parquet",
    )
