"""Keep what Python compiles out of ZIP files, for the processes of a test run; on their PYTHONPATH, and nowhere else.

Ansible sends a module with all that it imports as a ZIP file of sources, a new one each time. Python keeps nothing
that it compiles out of one, and compiles some fifty files at each run of a module, which takes as long as all else that
the module does. A test run runs modules by the thousand. Here the code of a source is kept by the source's hash, in the
directory that IPDK_COMPILED names; a process that may not write there compiles as ever.
"""

import marshal
import os
import sys
import zipimport
from _imp import source_hash

_compile = zipimport._compile_source


def kept(path, source):
    """The code of a source file in a ZIP file. It says of itself that it came from where it was first found."""
    name = f"{os.path.basename(path)}-{len(source)}-{source_hash(sys.hexversion, source).hex()}"
    place = f"{os.environ['IPDK_COMPILED']}/{name}"
    try:
        with open(place, "rb") as file:
            return marshal.load(file)
    except (OSError, EOFError, ValueError):
        pass
    code = _compile(path, source)
    new = f"{place}.{os.getpid()}"
    try:
        with open(new, "wb") as file:
            marshal.dump(code, file)
        os.replace(new, place)
    except OSError:
        pass
    return code


if "IPDK_COMPILED" in os.environ:
    zipimport._compile_source = kept
