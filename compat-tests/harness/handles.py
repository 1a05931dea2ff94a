"""File handles, by which a server of NFS knows files. Source: open_by_handle_at(2)."""

import ctypes
import os
import struct

AT_FDCWD = -100
MAX_BYTES = 128
LIBC = ctypes.CDLL(None, use_errno=True)


def handle(path):
    """The handle of a file: its kind and bytes."""
    buffer, mount_id = ctypes.create_string_buffer(8 + MAX_BYTES), ctypes.c_int()
    struct.pack_into("Ii", buffer, 0, MAX_BYTES, 0)
    if LIBC.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount_id), 0):
        raise failed()
    length, kind = struct.unpack_from("Ii", buffer)
    return kind, buffer.raw[8 : 8 + length]


def open_handle(mounted, wanted, flags=os.O_RDONLY):
    """Opens the file of a handle on the file system that is mounted there."""
    kind, data = wanted
    buffer = ctypes.create_string_buffer(8 + len(data))
    struct.pack_into("Ii", buffer, 0, len(data), kind)
    buffer[8 : 8 + len(data)] = data
    on = os.open(mounted, os.O_RDONLY | os.O_DIRECTORY)
    try:
        descriptor = LIBC.open_by_handle_at(on, buffer, flags)
    finally:
        os.close(on)
    if descriptor < 0:
        raise failed()
    return descriptor


def failed():
    """What errno says."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
