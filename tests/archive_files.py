"""Archives for the tests of extracting, plain and odd."""

import io
import tarfile
import zipfile
from typing import Any

from omniad.config import DownloadSettings


def source(folder, archive):
    return DownloadSettings(title="Set", folder=str(folder / "set"), archive=str(folder / archive))


def tar(folder, *members, mode: Any = "w", name="set.tar"):
    """A tar of (name, content) or of TarInfo with whatever type."""
    with tarfile.open(folder / name, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return source(folder, name)


def zipped(folder, *members, name="set.zip"):
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return source(folder, name)


def special(name, kind, target="", mode=0o644):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def left(folder):
    """Everything in a folder but the archive, with what is beside it."""
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".tar", ".zip", ".xz"))


def change(archive, position, content):
    with archive.open("r+b") as file:
        file.seek(position)
        file.write(content)
