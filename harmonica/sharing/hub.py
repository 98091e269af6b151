"""Plans and routers in Hugging Face hub repositories: pushed with a card, pulled by the loaders that check them."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from harmonica import __version__
from harmonica.plan import Plan, Router
from harmonica.sharing import card, files
from harmonica.sharing.measured import OnPipeline, Quality
from harmonica.utils import UserError, write_atomic
from harmonica.utils.errors import of_the_disk

SUFFIX = ".safetensors"
LARGEST = 1 << 26  # bytes of a file that is taken from the hub; plans have kilobytes
CARD, LARGEST_CARD = "README.md", 1 << 20


def push(
    made: dict[Path, tuple[Plan | Router, Quality | OnPipeline | None]],
    repository: str,
    private: bool = False,
    message: str | None = None,
    revision: str | None = None,
) -> str:
    """Upload files, with what is in them and what was measured of it, and the repository's card, in one commit; the
    repository and the branch `revision` are made if they do not exist. Returns the repository's address.

    Raises UserError if the hub refuses or cannot be reached, or a private repository is requested and it is public.
    """
    from huggingface_hub import CommitOperationAdd

    contents = _contents(made, repository)
    sections = {
        path.name: card.section(path.name, repository, own, hashlib.sha256(contents[path.name]).hexdigest(), quality)
        for path, (own, quality) in made.items()
    }
    with _one_sentence(f"push to {repository}"):
        api = _api()
        api.create_repo(repository, private=private, exist_ok=True)
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True)
        info = api.repo_info(repository, revision=revision, files_metadata=True)
        if private and info.private is False:
            raise UserError(f"{repository} exists and is public: nothing was pushed; make it private on the hub first")
        old = _card(api, info, repository) if CARD in _sizes(info) else None
        text = card.readme(sections, [own.protocol for own, _ in made.values()], old)
        operations = [CommitOperationAdd(name, data) for name, data in (contents | {CARD: text.encode()}).items()]
        api.create_commit(
            repository, operations, commit_message=message or f"Plans: {', '.join(sections)}", revision=revision,
            parent_commit=info.sha,  # the card is that commit's, with changes
        )  # fmt: skip
        return f"{api.endpoint}/{repository}"


def pull(
    repository: str, file: str | None = None, out: Path | None = None, revision: str | None = None
) -> tuple[Path, Plan | Router]:
    """Download a plan or router, `file` of the repository or its only plan, to the file or into the folder `out`, by
    default into the working directory. Returns its path, and what is in it.

    It gets its name when it has been read and fits its model. Raises UserError for anything else, if the hub refuses or
    cannot be reached, or if another file has the default name.
    """
    with _one_sentence(f"pull from {repository}"):
        api = _api()
        info = api.repo_info(repository, revision=revision, files_metadata=True)
        name = _chosen(repository, _sizes(info), file)
        data, made = _checked(api, info, repository, name)
    path = _target(out, PurePosixPath(name).name)
    if out is None and path.exists() and path.read_bytes() != data:
        raise UserError(f"{path} exists and is another file: pass -o to write {name} elsewhere, or over it")
    write_atomic(path, data)
    return path, made


def _contents(made: dict[Path, Any], repository: str) -> dict[str, bytes]:
    """The files' bytes by their names in a repository. Raises UserError for names that cannot be."""
    if repository.endswith(SUFFIX):
        raise UserError(f"the last argument is the repository, OWNER/NAME, got the file {repository}")
    for path in made:
        if not _is_plain(path.name):
            raise UserError(f"{path} cannot be pushed: its name must end in {SUFFIX} and not begin with a dot")
    names = [path.name for path in made]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two files are named {name}: rename one of them")
    return {path.name: path.read_bytes() for path in made}


def _api() -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # of files of some kilobytes
    return HfApi(os.environ.get("HF_ENDPOINT") or None, library_name="harmonica-bench", library_version=__version__)


def _sizes(info: Any) -> dict[str, int | None]:
    """Bytes of a repository's files, by name."""
    return {f.rfilename: f.size for f in info.siblings or ()}


def _is_plain(name: str) -> bool:
    """Whether a name in a repository is of a file that could be a plan, and stays below the folder it is put into."""
    hidden = any(not part or part.startswith(".") for part in name.split("/"))
    return name.endswith(SUFFIX) and not hidden and "\\" not in name and name.isprintable()


def _chosen(repository: str, sizes: dict[str, int | None], file: str | None) -> str:
    """The file to pull."""
    if file is not None and not _is_plain(file):
        raise UserError(f"{file!r} is not the name of a plan in a repository: those end in {SUFFIX}, without `..`")
    there = sorted(name for name in sizes if _is_plain(name))
    if file is not None:
        if file not in there:
            raise UserError(f"{repository} has no {file}; it has {', '.join(there) or f'no {SUFFIX} files'}")
        return file
    routers = [name for name in there if name.endswith(f".router{SUFFIX}")]
    found = [name for name in there if name not in routers] or routers
    if not found:
        raise UserError(f"{repository} has no plans: it has no {SUFFIX} files")
    if len(found) > 1:
        raise UserError(f"{repository} has several plans: name one of {', '.join(found)}")
    return found[0]


def _checked(api: Any, info: Any, repository: str, name: str) -> tuple[bytes, Plan | Router]:
    """A file's bytes, and the plan or router in it. Raises UserError for anything else."""
    refused = f"{name} of {repository} was not saved"
    if (_sizes(info)[name] or 0) > LARGEST:
        raise UserError(f"{refused}: it has more than {LARGEST >> 20} MiB, and is no plan")
    with tempfile.TemporaryDirectory() as folder:
        # downloaded as one name, whatever the hub calls it: errors then say that name
        path = Path(api.hf_hub_download(repository, name, revision=info.sha, local_dir=folder))
        try:
            made = files.load(path)
            files.layout_of(made)
        except UserError as e:
            reason = str(e).replace(f"{path}: ", "").replace(str(path), "it").split("; run `harmonica")[0]
            raise UserError(f"{refused}: {reason}") from None
        except (TypeError, ValueError, KeyError, AttributeError) as e:  # numbers of a kind that numpy does not have
            raise UserError(f"{refused}: it is not a plan ({type(e).__name__})") from None
        return path.read_bytes(), made


def _card(api: Any, info: Any, repository: str) -> str:
    """The card that a repository has."""
    if (_sizes(info)[CARD] or 0) > LARGEST_CARD:
        raise UserError(f"{CARD} of {repository} has more than {LARGEST_CARD >> 20} MiB: a card is not added to it")
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(api.hf_hub_download(repository, CARD, revision=info.sha, local_dir=folder)).read_text("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{CARD} of {repository} is not text in UTF-8: a card is not added to it") from None


def _target(out: Path | None, name: str) -> Path:
    if out is None:
        return Path(name)
    return out / name if out.is_dir() else out


@contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """Errors of the hub, and of the way to it, as UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # the hub's client raises many kinds, of several packages
        if of_the_disk(e):
            raise
        raise UserError(f"cannot {what}: {_reason(e)}") from None


def _reason(e: Exception) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(e, "response", None), "status_code", None)
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(e, errors.HFValidationError):
        return "that is not the name of a repository, OWNER/NAME"
    if isinstance(e, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(e, errors.LocalTokenNotFoundError):
        return f"you are not logged in; {log_in}"
    if isinstance(e, errors.RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(e, errors.RepositoryNotFoundError):
        return f"it does not exist, or you may not see it; check its name, and {log_in}"
    if status == 401:
        return f"the hub does not know you (401); {log_in}"
    if status == 403:
        return "you may not do that there (403); check the owner's name, and that your token may write"
    if status in (409, 412):
        return f"it changed meanwhile ({status}); run the same command again"
    if status is not None:
        return f"the hub answered {status}"
    if "Invalid metadata in README.md" in str(e):
        return f"the front matter of its {CARD} is not valid; correct it on the hub"
    return f"the hub at {endpoint} cannot be reached, or is none ({type(e).__name__})"
