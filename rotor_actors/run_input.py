"""What a run is given when it is started or invoked, checked and encoded as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rotor_actors.durations import Duration
from rotor_actors.errors import PayloadError
from rotor_actors.ids import is_storable
from rotor_actors.payload import Codec
from rotor_actors.retry import RetryPolicy
from rotor_actors.workflows import Workflow


def encode_data(workflow: Workflow[Any, Any], codec: Codec, data: object) -> bytes:
    """A run's input as stored; what the workflow's annotation would alter or refuse is a `PayloadError`."""
    if not workflow.takes_data and data is not None:
        raise PayloadError(f"workflow {workflow.id!r} takes no data; its function has no data parameter")
    try:
        return codec.round_trip(data)[0]
    except PayloadError as error:
        raise PayloadError(f"input of workflow {workflow.id!r}: {error}") from error


def encode_headers(headers: Mapping[str, str] | None) -> bytes | None:
    """Headers as stored; None for none."""
    if not headers:
        return None
    if not isinstance(headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"headers are a mapping of strings to strings, e.g. {{'tenant': 'acme'}}; got {headers!r}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"headers are strings; got {name!r}: {value!r}")
        if not is_storable(name + value):
            raise PayloadError(f"headers are text that UTF-8 can hold; got {name!r}: {value!r}")
    return msgspec.msgpack.encode(dict(headers))


def encode_retries(retries: int | RetryPolicy | None, retry_delay: Duration | None) -> bytes | None:
    """A retry policy given with an invoke, as stored; None for the workflow's own."""
    if retries is None and retry_delay is None:
        return None
    return msgspec.msgpack.encode(RetryPolicy.of(retries, delay=retry_delay).to_record())
