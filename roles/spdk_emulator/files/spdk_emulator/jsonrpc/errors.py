"""The errors that a JSON-RPC method answers with."""

from __future__ import annotations

import errno
import os

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
INVALID_STATE = -1


class RpcError(Exception):
    """What a method answers instead of a result: ``{"code": …, "message": …}``."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    @classmethod
    def from_errno(cls, number: int) -> RpcError:
        """SPDK's most frequent form: the negative errno as the code, its ``strerror`` text as the message."""
        number = abs(number)
        return cls(-number, os.strerror(number))

    @classmethod
    def invalid_params(cls, message: str = "Invalid parameters") -> RpcError:
        return cls(INVALID_PARAMS, message)


NO_SUCH_DEVICE = errno.ENODEV
FILE_EXISTS = errno.EEXIST
