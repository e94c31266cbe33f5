# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""FdError, the one exception of this package."""
from __future__ import annotations

import grpc


class FdError(grpc.RpcError):  # type: ignore[misc]
    """A descriptor could not be sent or received.

    It is a grpc.RpcError, with the same code() and details() as the errors of stubs: whoever
    handles those has handled this one too.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


def invalid_argument(text: str) -> FdError:
    return FdError(grpc.StatusCode.INVALID_ARGUMENT, text)


def failed_precondition(text: str) -> FdError:
    return FdError(grpc.StatusCode.FAILED_PRECONDITION, text)


def unavailable(text: str) -> FdError:
    return FdError(grpc.StatusCode.UNAVAILABLE, text)


def resource_exhausted(text: str) -> FdError:
    return FdError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)


def not_found(text: str) -> FdError:
    return FdError(grpc.StatusCode.NOT_FOUND, text)


def deadline_exceeded(text: str) -> FdError:
    return FdError(grpc.StatusCode.DEADLINE_EXCEEDED, text)


def out_of_range(text: str) -> FdError:
    return FdError(grpc.StatusCode.OUT_OF_RANGE, text)
