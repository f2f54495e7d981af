"""The files of a plug-in CA in memory."""

from app.ca.backends import local_key
from app.ca.ports import PlugInSource
from app.ca.rules.plug_in import PlugInFiles, layout_of
from app.core.errors import InvalidInputError


class MemoryPlugIn(PlugInSource):
    """A PlugInSource whose files a test puts there. `torn` are what a read finds once, while they are replaced."""

    def __init__(self, files=None) -> None:
        self.files, self.torn = files or {}, None
        self.reads, self._writes = 0, 0

    @property
    def place(self):
        return "/etc/cacerts"

    def put(self, files):
        self.files = files
        self._writes += 1

    async def version(self):
        return str(self._writes)

    async def read(self):
        self.reads += 1
        files, torn = self.torn or self.files, self.torn is not None
        if torn:
            self.torn = None
            self._writes += 1
        layout = layout_of(files)
        chain = files[layout.chain] if layout.chain else b""
        try:
            key = local_key.parse(files[layout.key])
        except InvalidInputError as error:
            raise InvalidInputError(f"{layout.key}: {error.message}") from error
        crls = files.get(layout.crls)
        return PlugInFiles(layout, files[layout.certificate], chain, files[layout.roots], crls, key.public_key), key
