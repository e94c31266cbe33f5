from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor
DESCRIPTOR_PATH_FIELD_NUMBER: _ClassVar[int]
descriptor_path: _descriptor.FieldDescriptor

class Descriptor(_message.Message):
    __slots__ = ["label", "offset", "size", "url"]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    label: str
    offset: int
    size: int
    url: str
    def __init__(self, url: _Optional[str] = ..., label: _Optional[str] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...
